"""Losses of labels, against scikit-learn's weights and Optax's cross-entropy."""

import jax
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build, make_objective
from jaxprompt.objectives.classes import class_scores
from jaxprompt.ops.losses import LossShape
from tests.conftest import STORIES

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 4, 3)).astype(np.float32)
# An example without a label, and an empty slot.
LABELS = np.array([[0, 2, 1, -1], [2, 2, 0, 1]])
INDEX = np.array([[0, 1, 2, 3], [4, 5, 6, -1]])
KNOWN = (LABELS >= 0) & (INDEX >= 0)


class Batch:
    index, answers = INDEX, {"label": LABELS}


def config(rows, **objective):
    objective = {"type": "classifier", **objective}
    return {"model": STORIES, "template": "{soft:2}{text}", "objective": objective, "data": {"train": rows}}


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.05)])
def test_shaped_and_weighted_losses_are_means_by_weight(smoothing, z_loss, weights):
    scores = class_scores(LOGITS, Batch, LossShape(smoothing, z_loss), weights)
    target = optax.smooth_labels(jax.nn.one_hot(LABELS[KNOWN], 3), smoothing)
    losses = optax.softmax_cross_entropy(LOGITS[KNOWN], target)
    losses = np.asarray(losses + z_loss * jax.nn.logsumexp(LOGITS[KNOWN], -1) ** 2)
    want = np.average(losses, weights=None if weights is None else np.array(weights)[LABELS[KNOWN]])
    assert float(scores.loss / scores.count) == pytest.approx(want, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    rows = [{"text": "a", "label": label} for label in "xxxyz"]
    objective = make_objective(load_config(config(rows, class_weights="balanced")))
    want = compute_class_weight("balanced", classes=np.array(list("xyz")), y=np.array(list("xxxyz")))
    assert objective.weights == pytest.approx(tuple(want))
    # A label without rows has no say, and none is divided by.
    objective = make_objective(load_config(config(rows, labels=list("wxyz"), class_weights="balanced")))
    assert objective.weights[1:] == pytest.approx((5 / 12, 5 / 4, 5 / 4))
    named = make_objective(load_config(config(rows, class_weights={"z": 3, "x": 1, "y": 2})))
    assert named.weights == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"x": 1, "y": 2}, "objective.class_weights has no label 'z': give it a weight, such as 1.0"),
        ({"x": 1, "y": 2, "z": 1, "Z": 1}, "objective.class_weights has label 'Z' (choose from: x, y, z)"),
    ],
)
def test_weights_of_other_labels_are_refused(weights, message):
    rows = [{"text": "a", "label": label} for label in "xyz"]
    with pytest.raises(InputError) as error:
        make_objective(load_config(config(rows, class_weights=weights)))
    assert str(error.value) == message


def test_a_run_learns_by_the_shaped_loss_and_reports_the_plain_one(stories, tmp_path, quiet):
    rows = [{"text": text, "label": label} for text, label in (("a dog", "x"), ("the cat sat", "y"), ("he", "x"))]
    found = {}
    for name, objective in (("plain", {}), ("shaped", {"label_smoothing": 0.4, "class_weights": "balanced"})):
        tree = config(rows, **objective)
        tree["data"]["validation"] = rows
        tree |= {"train": {"steps": 1, "batch_size": 3, "log_every": 1}, "run_dir": str(tmp_path / name)}
        tree["optimizer"] = {"learning_rate": 0.0}
        found[name] = jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics
        if name == "shaped":
            # Weights are for learning: a run is used without its training rows.
            used = build(load_config(tree), stories, label_names=["x", "y"])
            assert used.objective.weights == (1.0, 1.0)
    assert found["plain"]["loss"] == pytest.approx(found["shaped"]["loss"])


def test_generation_learns_by_the_shaped_loss_and_reports_the_plain_one(stories, tmp_path, quiet):
    rows = [{"text": "once", "target": "upon a time"}, {"text": "a dog", "target": "ran."}]
    found = {}
    for z_loss in (0.0, 0.1):
        tree = {
            "model": STORIES,
            "template": "{soft:2}{text} {target}",
            "objective": {"type": "generation", "z_loss": z_loss},
            "data": {"train": rows, "validation": rows},
            "train": {"steps": 1, "batch_size": 2, "log_every": 1},
            "optimizer": {"learning_rate": 0.0},
            "run_dir": str(tmp_path / str(z_loss)),
        }
        found[z_loss] = jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics
    assert found[0.0]["loss"] == pytest.approx(found[0.1]["loss"])
    assert found[0.0]["train_loss"] == pytest.approx(found[0.0]["loss"], rel=1e-4)
    assert found[0.1]["train_loss"] > found[0.0]["train_loss"] + 0.5
