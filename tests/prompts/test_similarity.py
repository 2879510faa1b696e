"""Prompts that are near each other."""

import json

import numpy as np
import pytest

from jaxprompt.commands import main
from jaxprompt.errors import InputError
from jaxprompt.prompts import Prompt, save_prompt
from jaxprompt.prompts.similarity import similarity
from jaxprompt.types import Conditioning


def prompt(*rows):
    return Prompt(Conditioning(soft=np.array(rows, np.float32)))


def test_it_is_the_cosine_of_the_mean_rows_whatever_the_length():
    found = similarity({"a": prompt([1, 0], [1, 0]), "b": prompt([0, 3]), "c": prompt([1, 0], [0, 1], [2, 2])})
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, 0, half], [0, 1, half], [half, half, 1]], atol=1e-12)


def test_what_cannot_be_compared_is_said():
    with pytest.raises(InputError, match="name two or more"):
        similarity({"a": prompt([1, 0])})
    with pytest.raises(InputError, match="'b' is 3 wide, 'a' 2"):
        similarity({"a": prompt([1, 0]), "b": prompt([1, 0, 0])})
    with pytest.raises(InputError, match="'b' has no soft rows"):
        similarity({"a": prompt([1, 0]), "b": Prompt()})


def test_the_command_names_the_nearest_first(tmp_path, capsys):
    rows = {"a": [1, 0.0], "b": [0.0, 1], "c": [1, 0.2]}
    paths = {name: str(save_prompt(prompt(row), tmp_path / f"{name}.safetensors")) for name, row in rows.items()}
    assert main(["similar", *paths.values()]) == 0
    first = capsys.readouterr().out.splitlines()[0].split("\t")
    assert first == [paths["a"], f"0.981 {paths['c']}  0.000 {paths['b']}"]
    assert main(["similar", *paths.values(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["similarity"][0][1] == 0
