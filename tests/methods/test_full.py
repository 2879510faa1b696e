"""All parameters of a model: with a prompt, within bounds, and said what it costs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.inference.predict import predict_run
from jaxprompt.methods import Start
from jaxprompt.methods.full import Full
from jaxprompt.models.adapted import adapted, learnable
from jaxprompt.training.memory import state_cost
from jaxprompt.training.step import init_state
from jaxprompt.types import Inputs
from tests.conftest import GOLDEN
from tests.methods.test_contract import config


@pytest.mark.slow
def test_with_a_prompt_each_has_a_rate_and_what_it_costs_is_said_first(stories, rows, tmp_path, capsys):
    given = config("soft", rows, run_dir=str(tmp_path / "run"))
    given["method"] = {"name": "together", "parts": [{"name": "soft"}, {"name": "full"}]}
    given["optimizer"] = {"name": "adamw", "rates": {"prompt": 0.0, "deltas": 1e-3}}
    given["train"] = {"steps": 2, "batch_size": 4}
    experiment = build(load_config(given), stories)
    start = experiment.prompt(experiment.init_trainable())
    prompt = jaxprompt.train(given, backbone=stories).prompt
    np.testing.assert_array_equal(prompt.soft, start.soft)
    assert set(prompt.deltas) == set(learnable(stories.params))
    # AdamW's first steps are as large as its rate, of everything that has a gradient.
    moved = {path: np.abs(delta.shift).max() for path, delta in prompt.deltas.items()}
    assert all(1e-4 < size < 2.1e-3 for size in moved.values()), moved
    said = capsys.readouterr().err
    count = sum(leaf.size for leaf in jax.tree.leaves(stories.params)) + start.soft.size
    assert f"learns {count:,} numbers" in said
    assert said.index("learns ") < said.index("compiling")
    (answer,) = predict_run(tmp_path / "run", ["a dog"], stories)
    assert answer["prediction"]


def test_the_cost_counts_what_is_learned_its_gradient_and_the_optimizer(stories):
    shape = jax.ShapeDtypeStruct((1000, 1000), np.float32)
    params = {"word": jax.ShapeDtypeStruct((1000, 3000), np.float16)}

    def state(trainable):
        return jax.eval_shape(lambda trainable: init_state(trainable, optax.adamw(0.1)), trainable)

    said = state_cost(state({"deltas": {"word": {"shift": shape}}}), params, np.float16)
    # 4 MB each; two moments; of the weights 6 MB, of which 2 again as they become.
    assert re.findall(r"[0-9.]+ GB", said) == ["0.004 GB", "0.004 GB", "0.008 GB", "0.008 GB"]
    small = {"prompt": {"soft": jax.ShapeDtypeStruct((20, 1000), np.float32)}}
    assert state_cost(state(small), params, np.float16) is None


def gradient_of(backbone):
    """The gradient of something of the logits with respect to what is added to every parameter, and its program."""
    ids = jnp.arange(12).reshape(2, 6)
    inputs = Inputs(ids, jnp.broadcast_to(jnp.arange(6), ids.shape), jnp.ones_like(ids))

    def loss(trainable, params):
        changed = adapted(params, method.apply(trainable))
        return jnp.square(backbone.head(changed, backbone.apply(changed, inputs))).mean()

    method = Full.build(Full.Options(), 0, backbone)
    trainable = method.init(jax.random.key(0), Start(backbone))
    lowered = jax.jit(jax.grad(loss)).lower(trainable, backbone.params)
    return lowered.compile()(trainable, backbone.params), lowered.as_text()


def test_layers_that_stand_apart_have_the_same_gradient_which_is_put_together_once():
    stacked, _ = gradient_of(jaxprompt.load_backbone(GOLDEN / "llama-untied"))
    apart, text = gradient_of(jaxprompt.load_backbone(GOLDEN / "llama-untied", unroll=True))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), stacked, apart)
    # Not once for each layer, as large as the stack.
    assert "-> tensor<3x36x24xf32>" in text
    assert not re.search(r"stablehlo\.pad .*-> tensor<3x36x24xf32>", text)


def test_only_some_and_never_what_is_kept_in_few_bits(stories):
    names = [path for path in learnable(stories.params) if "attention" in path.split("/") or path == "word/weight"]
    assert sorted(Full.build(Full.Options(only=["word", "attention"]), 0, stories).shapes) == sorted(names)
    with pytest.raises(
        InputError, match=r"^method\.only has 'words', which this model has not \(did you mean 'word'\?\)"
    ):
        Full.build(Full.Options(only=["words"]), 0, stories)
    quantized = jaxprompt.load_backbone(GOLDEN / "gpt2", quantize="int8")
    with pytest.raises(InputError, match=r"learns 'layers/.*', which quantize keeps in few bits: leave quantize out"):
        Full.build(Full.Options(), 0, quantized)
    assert set(Full.build(Full.Options(only=["word"]), 0, quantized).shapes) == {"word/weight"}
