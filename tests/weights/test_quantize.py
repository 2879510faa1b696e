"""Weights in 8 and 4 bits: how far from the plain ones, how they multiply, and what that does to a prompt."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.backbone import load_backbone
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.models.layers import linear
from jaxprompt.models.quantized import GROUP, KINDS, Quantized
from jaxprompt.types import Conditioning
from jaxprompt.weights.rounding import quantize_rows
from tests.conftest import STORIES
from tests.devices import run_on_eight_devices

GOLDEN = Path(__file__).parents[1] / "golden"
KIND = pytest.mark.parametrize("kind", KINDS)


def quantized(weight, kind):
    leaf = KINDS[kind].abstract(weight.shape)
    out = jax.tree.map(lambda array: np.empty(array.shape, array.dtype), leaf)
    quantize_rows(np.asarray(weight, np.float32), out.values, out.scale)
    return jax.tree.map(jnp.asarray, out)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grouped(weight):
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % GROUP)))
    return padded.reshape(len(weight), -1, GROUP)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 3 * GROUP),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]),
)
def test_int8_rounds_by_at_most_half_a_step(out_size, in_size, seed, size):
    weight = size * random(out_size, in_size, seed=seed)
    weight[0] = 0  # a row of zeros has no step
    step = np.abs(weight).max(1, keepdims=True) / 127
    off = np.abs(np.asarray(quantized(weight, "int8").dequantize()) - weight)
    assert (off <= step * 0.5001 + 1e-37).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 3 * GROUP),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]),
)
def test_int4_is_at_least_as_near_as_the_absolute_maximum_over_7(out_size, in_size, seed, size):
    weight = size * random(out_size, in_size, seed=seed)
    weight[0] = 0
    groups = grouped(weight)
    off = grouped(np.asarray(quantized(weight, "int4").dequantize()) - weight)
    # Signed extremes map to -8 or to 7: one of the scales tried has no error above half a step of maximum / 7 ...
    # but for its own rounding to bfloat16, which can move a number by 1/256 of itself.
    most = np.abs(groups).max(-1, keepdims=True)
    bound = ((most / 7 * 0.5 + most / 256) ** 2).repeat(GROUP, -1).sum(-1)
    assert ((off**2).sum(-1) <= bound * 1.001 + 1e-60).all()


def test_int4_error_of_normal_numbers():
    """Plain absolute maxima give 0.097."""
    weight = random(64, 64 * GROUP)
    off = np.asarray(quantized(weight, "int4").dequantize()) - weight
    assert np.sqrt((off**2).mean()) < 0.084


def test_int4_keeps_whole_numbers_and_their_places():
    weight = np.random.default_rng(0).integers(-8, 7, (3, GROUP + 5)).astype(np.float32)
    weight[:, [0, GROUP]] = -8
    np.testing.assert_array_equal(quantized(weight, "int4").dequantize(), weight)
    assert quantized(weight, "int4").shape == weight.shape


@KIND
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_linear_is_that_of_the_dequantized_weight(kind, dtype):
    x, bias = random(2, 3, 70, seed=1).astype(dtype), random(5, seed=2)
    weight = quantized(random(5, 70), kind)
    want = linear(x.astype(np.float32), weight.dequantize(), bias)
    for out_dtype in (None, jnp.float32):
        got = jax.jit(linear, static_argnames="out_dtype")(x, weight, bias, out_dtype=out_dtype)
        assert got.dtype == (out_dtype or dtype)
        tolerance = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}[dtype]
        np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=tolerance, atol=4 * tolerance)


@KIND
def test_gradient_is_that_of_the_dequantized_weight(kind):
    """Through a scan over layers that recomputes, as in a backbone."""
    layers = [quantized(random(40, 40, seed=seed) / 6, kind) for seed in range(3)]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *layers)
    plain = jnp.stack([layer.dequantize() for layer in layers])

    def loss(x, weights):
        step = jax.checkpoint(lambda x, weight: (jnp.tanh(linear(x, weight)), None))
        return (jax.lax.scan(step, x, weights)[0] ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    got, want = gradient(random(2, 40), stacked), gradient(random(2, 40), plain)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_no_sum_of_products_overflows_float16():
    weight = quantized(np.full((1, 4096), 1e-3, np.float32), "int8")
    # As whole numbers the products would sum to 127 * 4096 * 8.
    for size in (8, 800):
        found = linear(jnp.full((1, 4096), size, jnp.float16), weight)
        assert found.dtype == jnp.float16
        np.testing.assert_allclose(found, 4.096 * size, rtol=2e-3)


@KIND
def test_the_backward_pass_keeps_no_widened_weight(kind):
    """Without recomputation every layer's weight would be saved in the type of the activations."""
    layers, size = 8, 256
    leaf = KINDS[kind].abstract((layers, size, size))

    def loss(x, weights):
        return jax.lax.scan(lambda x, weight: (linear(x, weight), None), x, weights)[0].sum()

    memory = jax.jit(jax.grad(loss)).lower(jax.ShapeDtypeStruct((1, size), jnp.float32), leaf).compile()
    assert memory.memory_analysis().temp_size_in_bytes < 0.5 * layers * size * size * 4


def matrices(params):
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.08), ("int4", 0.6)])
@pytest.mark.parametrize(
    "name", ["llama-untied", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "gpt-neox", "t5"))]
)
def test_loading_quantises_the_matrices_of_the_layers_alone(name, kind, tolerance):
    """GPT-2's weights are stored transposed, GPT-NeoX's in blocks; T5 has a cross-attention."""
    plain, narrow = load_backbone(GOLDEN / name), load_backbone(GOLDEN / name, quantize=kind)
    assert narrow.fingerprint == plain.fingerprint
    found = matrices(narrow.params)
    for path, weight in matrices(plain.params).items():
        if "layers/" in path and path.endswith("weight") and "norm" not in path:
            assert isinstance(found[path], KINDS[kind]), path
            want = [np.asarray(quantized(layer, kind).dequantize()) for layer in np.asarray(weight)]
            np.testing.assert_array_equal(found[path].dequantize(), want)
        else:
            np.testing.assert_array_equal(found[path], weight)
    ids = np.random.default_rng(0).integers(0, 61, (4, 9))
    more = {"decoder_input_ids": ids[:, :4]} if plain.seq2seq else {}
    want = np.asarray(plain.logits(ids, **more))
    off = np.asarray(narrow.logits(ids, **more)) - want
    assert 0 < np.sqrt((off**2).mean()) < tolerance * want.std()


def test_memory_is_half_and_about_a_quarter_of_bfloat16s():
    sizes = {
        kind: sum(leaf.nbytes for leaf in jax.tree.leaves(load_backbone(STORIES, "bfloat16", quantize=kind).params["layers"]))
        for kind in (None, *KINDS)
    }  # fmt: skip
    # This model is 64 wide: a row's scale of 4 bytes still counts, and 172 is no multiple of a group.
    assert sizes["int8"] < 0.55 * sizes[None]
    assert sizes["int4"] < 0.32 * sizes[None]


@pytest.fixture
def gradients(rows):
    """Backbone -> gradient of a soft prompt's loss, at several prompts."""
    case = {
        "model": "m",
        "template": "Read this. {soft:3} Review: {text} It was{soft:2} {target}",
        "objective": {"type": "generation"},
        "data": {"train": rows, "shuffle": False},
        "train": {"batch_size": len(rows)},
        "method": {"init": {"type": "vocab", "top_k": 100}},
    }

    def of(backbone):
        experiment = build(load_config(case), backbone)
        loaded = TrainingData.load(experiment)
        forward, batch = experiment.forward(loaded.hoisted), next(loaded.train_batches(0))

        def loss(soft, frozen):
            scores = forward(Conditioning(soft=soft), {}, frozen, batch)
            return scores.loss / scores.count

        gradient, frozen = jax.jit(jax.grad(loss)), forward.frozen()
        table = np.asarray(load_backbone(STORIES).params["word"]["weight"])
        prompts = [table[np.random.default_rng(seed).integers(3, 400, 5)] for seed in range(8)]
        return [np.ravel(gradient(prompt, frozen)) for prompt in prompts]

    return of


@pytest.mark.slow
def test_gradient_of_a_soft_prompt_of_a_real_model(gradients):
    """Mean over prompts; benchmarks/results/quantization.md has other templates and MiniLM.

    Int8 meets its aim of 0.999 here. Int4 does not meet its aim of 0.98, and its bound only notices when it gets worse
    still. No rounding to 4.5 bits would: GPTQ, with these very prompts and texts for its calibration, reaches 0.91.
    """
    want = gradients(load_backbone(STORIES))
    for kind, least in (("int8", 0.999), ("int4", 0.8)):
        got = gradients(load_backbone(STORIES, quantize=kind))
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(got, want, strict=True)]
        assert least < np.mean(cosines) < 0.99999, (kind, cosines)


EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, sys
from jax.sharding import PartitionSpec as P
from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.machine.sharding import make_mesh

mesh, single = make_mesh(data=2, fsdp=2, tensor=2), make_mesh(devices=jax.devices()[:1])
ids = np.random.default_rng(0).integers(0, 61, (8, 6))
for kind, where in (("int8", P(None, "tensor")), ("int4", P(None, "tensor", "fsdp"))):
    one, eight = (load_backbone(sys.argv[1], mesh=m, quantize=kind) for m in (single, mesh))
    up = eight.params["layers"]["mlp"]["up"]["weight"]
    assert up.values.sharding.spec[1] == "tensor", up.values.sharding
    assert up.scale.sharding.spec[1] == "tensor", up.scale.sharding
    jax.tree.map(np.testing.assert_array_equal, eight.params, one.params)
    np.testing.assert_allclose(eight.logits(ids), one.logits(ids), rtol=1e-4, atol=1e-4)
    one, eight = (load_backbone(sys.argv[2], mesh=m, quantize=kind) for m in (single, mesh))
    up = eight.params["layers"]["mlp"]["up"]["weight"]
    assert up.scale.sharding.spec == where, up.scale.sharding
    assert up.values.addressable_shards[0].data.shape[2] == up.values.shape[2] // 2
    jax.tree.map(np.testing.assert_array_equal, eight.params, one.params)
print("same")
"""


def test_eight_devices_hold_what_one_does():
    assert run_on_eight_devices(EIGHT_DEVICES, str(GOLDEN / "llama-untied"), STORIES) == "same"


def test_unknown_kind():
    with pytest.raises(InputError, match=r"unknown quantize 'int88' \(did you mean 'int8'"):
        load_backbone(GOLDEN / "gpt2", quantize="int88")
