"""Steps that are not finite are skipped and counted; too many in a row end a run, and what was good stays."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import NotFinite
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.training.checkpoint import Saved
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from tests.conftest import STORIES
from tests.training.test_loop import records

# The row that holds a token whose embedding is not a number, and that token.
BAD, TOKEN = 1, 306


@pytest.fixture(scope="module")
def broken(stories):
    table = stories.params["word"]["weight"]
    return dataclasses.replace(
        stories, params={**stories.params, "word": {"weight": table.at[TOKEN].set(np.nan)}}, reading=None
    )


def tree(rows, run_dir, **train):
    return {
        "model": STORIES,
        "template": "{soft:2} {text}",
        "objective": {"type": "classifier"},
        # Packed, what is beside it would be broken too.
        "data": {"train": rows, "validation": rows[6:10], "packing": False},
        "train": {"steps": 6, "batch_size": 4, "eval_every": 2, "log_every": 3, **train},
        "run_dir": str(run_dir),
    }


def test_steps_that_are_not_finite_change_nothing_and_are_counted(stories, broken, rows, tmp_path, quiet):
    result = jaxprompt.train(tree(rows, tmp_path / "run"), backbone=broken, reporter=quiet)
    data = TrainingData.load(build(jaxprompt.load_config(tree(rows, tmp_path)), stories))
    bad = [(data.train[step].index == BAD).any() for step in range(6)]
    assert 0 < sum(bad) < 6
    logged = [record for record in records(tmp_path / "run") if "validation" not in record]
    assert [record.get("skipped", 0) for record in logged] == [sum(bad[:3]), sum(bad[3:])]
    assert result.metrics["skipped_steps"] == sum(bad) and result.metrics["step"] == 6
    # The other steps are those of a run of them alone.
    experiment = build(jaxprompt.load_config(tree(rows, tmp_path)), stories)
    optimizer = make_optimizer(experiment.config.optimizer, 6, experiment.trainable_shapes())
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    state, losses = init_state(experiment.init_trainable(), optimizer), []
    for number in np.flatnonzero(~np.array(bad)):
        state, figures = step(state, jax.device_put(data.train[int(number)]))
        losses.append(float(figures["loss"]))
    numbers = np.array([record["loss"] * (3 - record.get("skipped", 0)) for record in logged if record["loss"]])
    np.testing.assert_allclose(numbers.sum(), sum(losses), rtol=1e-5)
    kept = Saved.newest(tmp_path / "run" / "checkpoints").state(init_state(experiment.init_trainable(), optimizer))
    for ours, theirs in zip(jax.tree.leaves(kept.trainable), jax.tree.leaves(state.trainable), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("validated", [pytest.param(True, marks=pytest.mark.slow), False])
def test_too_many_in_a_row_end_the_run_and_name_the_example(broken, rows, tmp_path, quiet, validated):
    asked = tree(rows, tmp_path / "run", max_bad_steps=2, batch_size=12, log_every=2)
    if not validated:
        del asked["data"]["validation"]
    says = (
        rf"^the loss of example {BAD + 1} of the training data \(1 of 12 in step 2\) is not finite, in 2 steps in a row"
    )
    with pytest.raises(NotFinite, match=says):
        jaxprompt.train(asked, backbone=broken, reporter=quiet)
    prompt = jaxprompt.load_prompt(tmp_path / "run")
    assert np.isfinite(prompt.soft).all()
    logged = [record for record in records(tmp_path / "run") if "validation" not in record]
    assert [(record["loss"], record["skipped"]) for record in logged] in ([], [(None, 2)])
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_what_goes_wrong_is_not_written_over_what_was_right(stories, rows, tmp_path, quiet):
    """A prompt that leaves the numbers that there are, after good steps."""
    asked = tree(rows, tmp_path / "run", eval_every=1, log_every=1, max_bad_steps=3, steps=40)
    asked["optimizer"] = {"name": "sgd", "learning_rate": 1e30, "clip_norm": None}
    with pytest.raises(NotFinite, match=r"learning_rate, or set optimizer\.clip_norm$"):
        jaxprompt.train(asked, backbone=stories, reporter=quiet)
    saved = Saved.newest(tmp_path / "run" / "checkpoints")
    assert all(np.isfinite(leaf).all() for leaf in saved.leaves if leaf.dtype == np.float32)
    assert saved.record.members[0].bad_steps == 0
