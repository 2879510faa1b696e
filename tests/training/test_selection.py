"""Which evaluation's prompt a run keeps."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.scoring.evaluate import Evaluation
from tests.conftest import STORIES

LABELS = np.array([0, 1, 1, 1, 1])


def evaluation(*margins):
    """Class logits of five examples, label 0 and four times label 1: by how much they prefer label 1."""
    margins = np.array(margins, np.float32)
    return Evaluation({"logits": np.stack([0 * margins, margins], -1)}, {"label": LABELS})


WRONG = evaluation(9, -9, -9, -9, -9)
# Always label 1: accuracy 0.8, macro F1 0.44; of the same figures, the second is surer of what is right.
MAJORITY, SURER = evaluation(0.1, 0.1, 0.1, 0.1, 0.1), evaluation(0.1, 0.2, 0.2, 0.2, 0.2)
# Accuracy 0.6, macro F1 0.58, and very sure of what is wrong.
BALANCED = evaluation(-1, 1, 1, -9, -9)
# Accuracy 0.6, macro F1 0.375, and unsure of what is wrong.
CAREFUL = evaluation(0.1, 9, 9, 9, -0.1)
# The sure ones of which one example cannot be told.
BROKEN = evaluation(-9, 9, float("nan"), 9, 9)


def tree(rows, folder, **train):
    return {"data": {"train": rows, "validation": rows[:5]}, "run_dir": str(folder), "train": train}


@pytest.mark.parametrize(("metric", "best_step"), [(None, 4), ("accuracy", 4), ("macro_f1", 2), ("loss", 3)], ids=str)
def test_metric_names_the_figure_that_chooses_in_its_direction(scripted, rows, tmp_path, metric, best_step):
    """Equal ones are told apart by the loss, and of those the first stays."""
    found = [WRONG, MAJORITY, BALANCED, CAREFUL, SURER, SURER, MAJORITY]
    start = scripted(tree(rows, tmp_path / "start", steps=0), found[:1]).prompt.soft
    result = scripted(tree(rows, tmp_path / "run", steps=6, metric=metric), found)
    assert (result.metrics["step"], result.metrics["best_step"]) == (6, best_step)
    # The prompt and the figures are those of that step.
    np.testing.assert_allclose(result.prompt.soft, start + best_step, atol=1e-5)
    records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    (record,) = (r["validation"] for r in records if "validation" in r and r["step"] == best_step)
    assert record == {name: result.metrics[name] for name in record}
    assert json.loads((result.run_dir / "result.json").read_text()) == result.metrics


@pytest.mark.parametrize(
    ("objective", "metric", "names"),
    [
        (
            "classifier",
            "acuracy",
            "classifier has the figures accuracy, macro_f1, loss, f1, .* \\(did you mean 'accuracy'",
        ),
        ("generation", "target_tokens", "a count, by which no prompt is better"),
        ("regression", "bleu", "regression has the figures pearson, spearman, loss$"),
    ],
)
def test_a_figure_that_the_objective_has_not_is_refused(scripted, rows, tmp_path, objective, metric, names):
    with pytest.raises(InputError, match=rf"^train\.metric is '{metric}'(: |, ){names}"):
        scripted({**tree(rows, tmp_path / "run", metric=metric), "objective": {"type": objective}}, [])
    assert not (tmp_path / "run").exists()


def test_what_is_not_finite_is_never_the_best_and_never_an_improvement(scripted, rows, tmp_path):
    result = scripted(tree(rows, tmp_path / "run", steps=9, patience=2), [WRONG, BROKEN, CAREFUL, BROKEN, BROKEN])
    assert (result.metrics["step"], result.metrics["best_step"]) == (4, 2)
    assert result.metrics["accuracy"] == pytest.approx(0.6)
    records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    unclear = [r for r in records if "not_finite" in r]
    assert unclear == [{"step": step, "validation": None, "not_finite": [3]} for step in (1, 3, 4)]


def test_a_run_that_begins_with_what_is_not_finite_keeps_the_first_that_is(scripted, rows, tmp_path):
    settings = {"steps": 3, "eval_start": False}
    result = scripted(tree(rows, tmp_path / "run", **settings), [BROKEN, WRONG, BROKEN])
    assert result.metrics["best_step"] == 2
    with pytest.raises(InputError, match=r"^no evaluation of run .*none' gave finite scores") as error:
        scripted(tree(rows, tmp_path / "none", **settings), [BROKEN, BROKEN, BROKEN])
    assert "\n" not in str(error.value)


def test_a_start_that_is_not_finite_is_refused_by_example(stories, rows, tmp_path, quiet):
    """Of the real model, but that it has no number for one word."""
    (dull,) = (row for row in rows if row["text"] == "dull")
    word = stories.tokenizer("dull", add_special_tokens=False)["input_ids"]
    used = [set(stories.tokenizer(row["text"])["input_ids"]) for row in rows if row is not dull]
    only = next(token for token in word if not any(token in ids for ids in used))
    table = stories.params["word"]["weight"]
    params = {**stories.params, "word": {"weight": table.at[only].set(jnp.nan)}}
    tree = {
        "model": STORIES,
        "template": "{text}",
        "method": {"name": "none"},
        "objective": {"type": "classifier"},
        # In a row of its own it spoils no other.
        "data": {"train": rows, "validation": [*rows[2:6], dull, *rows[6:]], "packing": False},
        "train": {"steps": 1},
        "run_dir": str(tmp_path / "run"),
    }
    with pytest.raises(InputError, match=r"^the scores of example 5 \(1 of 11\) are not finite: .*weights") as error:
        jaxprompt.train(tree, backbone=dataclasses.replace(stories, params=params), reporter=quiet)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "prompt.safetensors").exists()
