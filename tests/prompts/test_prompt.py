"""Prompt files."""

import dataclasses

import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.prompts import Prompt
from jaxprompt.text.tokens import fingerprint
from jaxprompt.types import Conditioning, Prefix

ROWS = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
SOFT = Prompt(Conditioning(soft=ROWS), info={"template": "é"})


def test_round_trip(tmp_path):
    prompt = dataclasses.replace(SOFT, head={"weight": np.ones((2, 64), np.float32), "bias": np.zeros(2, np.float32)})
    loaded = jaxprompt.load_prompt(jaxprompt.save_prompt(prompt, tmp_path / "a.safetensors"))
    assert loaded.info == {"template": "é"}
    np.testing.assert_array_equal(loaded.soft, prompt.soft)
    np.testing.assert_array_equal(loaded.head["weight"], prompt.head["weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_gets_and_gives_its_prompt(tmp_path):
    jaxprompt.save_prompt(SOFT, tmp_path)
    np.testing.assert_array_equal(jaxprompt.load_prompt(tmp_path).soft, SOFT.soft)


def test_npy_with_and_without_suffix(tmp_path):
    path = jaxprompt.save_prompt(SOFT, tmp_path / "prompt.npy")
    np.testing.assert_array_equal(np.load(path), SOFT.soft)
    path.rename(tmp_path / "encoder.prompt.prompt.prompt")
    np.testing.assert_array_equal(jaxprompt.load_prompt(tmp_path / "encoder.prompt.prompt.prompt").soft, SOFT.soft)


def test_a_prefix_has_no_npy(tmp_path):
    zeros = np.zeros((1, 2, 3, 4))
    prefix = Prompt(Conditioning(prefix=Prefix(zeros, zeros, 2)))
    with pytest.raises(InputError, match="safetensors"):
        jaxprompt.save_prompt(prefix, tmp_path / "p.npy")
    assert list(tmp_path.iterdir()) == []


def _truncated(path):
    jaxprompt.save_prompt(SOFT, path)
    path.write_bytes(path.read_bytes()[:-8])


def _pickled(path):
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_truncated, "cannot be read"),
        (_pickled, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"hello there, this is text"), "cannot be read"),
        (lambda path: None, "does not exist"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "[P, D]"),
        (lambda path: __import__("safetensors.numpy").numpy.save_file({"a": np.zeros(2)}, path), "not a prompt"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, write, says):
    path = tmp_path / "p.safetensors"
    write(path)
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prompt_of_another_width_or_backbone_is_refused(stories, minilm):
    SOFT.check(stories)
    with pytest.raises(InputError, match="64 wide"):
        SOFT.check(minilm)
    other = dataclasses.replace(SOFT, info={"backbone": {"fingerprint": "0" * 16, "ref": "gpt2"}})
    with pytest.raises(InputError, match=r"another backbone.*'gpt2'"):
        other.check(stories)
    with pytest.raises(InputError, match=r"another backbone.*'gpt2'"):
        stories.logits([[1, 2]], prompt=other)


def test_a_prompt_learned_with_another_tokenizer_is_refused(stories):
    own = fingerprint(stories.tokenizer)
    dataclasses.replace(SOFT, info={"tokenizer": own}).check(stories)
    other = dataclasses.replace(SOFT, info={"tokenizer": "0" * 16, "backbone": {"ref": "gpt2"}})
    uses = (
        lambda: other.check(stories),
        lambda: jaxprompt.generate(stories, ["a"], other),
        lambda: stories.logits([[1, 2]], prompt=other),
    )
    for use in uses:
        with pytest.raises(
            InputError, match=rf"another tokenizer than .* \(fingerprint 0{{16}}, not {own}\): put .*'gpt2'$"
        ):
            use()

    def missing():
        raise InputError("no usable tokenizer")

    # Whoever has no tokenizer gives ids.
    other.check(dataclasses.replace(stories, read_tokenizer=missing))


def test_a_prefix_of_an_encoder_goes_with_an_encoder_decoder_only(stories):
    keys = np.zeros((5, 2, 4, 8), np.float32)
    Prompt(Conditioning(prefix=Prefix(keys, keys, 2))).check(stories)
    for conditioning in (
        Conditioning(prefix=Prefix(keys, keys, 2), source_prefix=Prefix(keys, keys, 0)),
        Conditioning(source_prefix=Prefix(keys, keys, 0)),
    ):
        with pytest.raises(InputError, match="use the backbone it was learned for"):
            Prompt(conditioning).check(stories)
