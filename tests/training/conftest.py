"""Runs of which only the loop is real."""

from types import SimpleNamespace

import jax
import pytest

import jaxprompt
from jaxprompt.training import alone
from tests.conftest import STORIES


@pytest.fixture
def scripted(stories, quiet, monkeypatch):
    """Returns `run(tree, evaluations, backbone)`: a run of a classifier whose steps add 1 to what is learned.

    It finds the given evaluations, one after the other, whatever its prompt is.
    """

    def make_train_step(*args):
        def step(state, batch):
            trainable = jax.tree.map(lambda x: x + 1, state.trainable)
            state = state.replace(step=state.step + 1, trainable=trainable)
            return state, {"loss": 1.0, "count": 1.0, "grad_norm": 0.0, "skipped": False}

        step.ahead = SimpleNamespace(begin=lambda *args: None, seconds=lambda batch: None)
        return step

    def run(tree, evaluations, backbone=stories):
        found = iter(evaluations)
        monkeypatch.setattr(alone, "make_train_step", make_train_step)
        monkeypatch.setattr(alone, "evaluate", lambda *args: next(found))
        fixed = {"model": STORIES, "template": "{soft:2}{text}", "objective": {"type": "classifier"}}
        train = {"batch_size": 4, "eval_every": 1, **tree.get("train", {})}
        result = jaxprompt.train({**fixed, **tree, "train": train}, backbone=backbone, reporter=quiet)
        assert next(found, None) is None, "an evaluation too few"
        return result

    return run
