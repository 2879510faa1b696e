"""Late rows wherever a template has them, beside other methods, and in either kind of model: packed as alone."""

import jax
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.inference.predict import predict_run
from tests.methods.test_contract import config, losses

LATE = {"name": "late", "layer": 2, "init": {"top_k": 50}}
BEHIND = "{text} {soft:3}It was {target}"
TOGETHER = {"name": "together", "parts": [LATE, {"name": "prefix"}, {"name": "gated_prefix", "layers": 2}]}
CASES = [(BEHIND, LATE), pytest.param("{soft:2}{text} {soft:1}It was {target}", TOGETHER, marks=pytest.mark.slow)]


def moved(trainable):
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), trainable)


@pytest.mark.parametrize(("template", "method"), CASES)
def test_packed_equals_each_example_alone_wherever_the_slots_are(stories, rows, template, method):
    experiment = build(load_config({**config("late", rows), "template": template, "method": method}), stories)
    trainable = moved(experiment.init_trainable())
    fast = losses(experiment, trainable)
    assert fast == pytest.approx(losses(experiment, trainable, packing=False, share_prefix=False), rel=1e-5)
    bare = losses(experiment, jax.tree.map(lambda x: 2 * x, trainable))
    assert fast != pytest.approx(bare, rel=1e-3)


def test_an_encoder_learns_late_rows_and_its_run_is_used(minilm, rows, tmp_path, quiet):
    tree = {
        **config("late", rows, run_dir=str(tmp_path / "run")),
        "template": "{soft:3}{text}",
        "objective": {"type": "classifier"},
        "train": {"steps": 2, "batch_size": 4},
    }
    result = jaxprompt.train(tree, backbone=minilm, reporter=quiet)
    assert result.prompt.soft_layer == 3  # of six layers
    assert jaxprompt.load_prompt(tmp_path / "run").soft_layer == 3
    (answer,) = predict_run(tmp_path / "run", ["a dog"], minilm)
    assert answer["prediction"] in ("0", "1")


def test_a_layer_that_is_not_there_is_refused(stories, rows):
    with pytest.raises(
        InputError, match=r"^soft rows enter ahead of layer 5, .* has 5 layers from 0 on: lower method\.layer$"
    ):
        build(load_config({**config("late", rows), "method": {**LATE, "layer": 5}}), stories)
