"""What a step is said to need, against the products of its program, of rows without padding."""

import jax
import pytest

from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.flops import step_flops
from jaxprompt.training.step import gradient
from tests.conftest import STORIES
from tests.flops import products

ROWS = [{"text": "the dog ran and ran and ran to the big house " * 3, "label": label} for label in ("good", "bad")]


def share(backbone, tmp_path, template, kept):
    """How much of what is computed is needed."""
    data = {"train": ROWS, "packing": False, "ahead": True, "cache": "memory" if kept else None}
    tree = {"model": STORIES, "template": template, "data": data, "train": {"batch_size": 2}}
    tree["objective"] = {"type": "verbalizer", "labels": {"good": "good", "bad": "sad"}}
    experiment = build(load_config(tree), backbone)
    data = TrainingData.load(experiment).cached(experiment, tmp_path)
    forward = experiment.forward(data.hoisted)
    look_ahead = jax.jit(forward.look_ahead)
    frozen = forward.frozen()
    data.fill_caches(lambda batch: look_ahead(frozen, batch))
    batch = next(data.train_batches(0))
    assert (batch.ahead is not None) == kept

    def step(trainable, frozen, batch):
        return gradient(forward, experiment.method, frozen, trainable, batch)

    computed = sum(product.flops for product in products(step, experiment.init_trainable(), frozen, batch))
    return step_flops(experiment, data.hoisted, batch).total / computed


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("{soft:5}{text} It was {target}", False),
        ("{text}{soft:5} It was {target}", False),
        ("{text}{soft:5} It was {target}", True),
    ],
)
def test_what_is_counted_of_a_decoder_is_what_is_computed(stories, tmp_path, template, kept):
    # The products of attention are computed of pairs that no token sees, too.
    assert 0.7 < share(stories, tmp_path, template, kept) < 1.0


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("{soft:5}{text} It was {target}", False),
        ("{text}{decoder}{soft:5} It was {target}", False),
        ("{text}{decoder}{soft:5} It was {target}", True),
    ],
)
def test_what_is_counted_of_an_encoder_decoder_is_what_is_computed(seq2seq, tmp_path, template, kept):
    # What is not computed at the decoder's ends is counted.
    assert 0.9 < share(seq2seq, tmp_path, template, kept) < 1.2
