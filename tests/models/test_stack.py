import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.models.stack import unstack
from jaxprompt.types import Inputs

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_remat_changes_what_is_kept_and_not_the_gradient(quantize):
    backbone = load_backbone(GOLDEN / "gpt2", quantize=quantize)
    ids = jnp.asarray([[61, 62, 5, 9, 11]])
    inputs = Inputs(ids, jnp.arange(5)[None], jnp.ones_like(ids))
    soft = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24)), jnp.float32)
    grads, kept = {}, {}
    for remat in ("none", "dots", "full"):
        module = dataclasses.replace(backbone.module, remat=remat)

        def loss(soft, params, module=module):
            return (module.apply({"params": params}, inputs, soft, method="encode") ** 2).sum()

        # What the forward pass hands to the backward pass, apart from the parameters.
        pullback = jax.eval_shape(lambda soft: jax.vjp(lambda soft: loss(soft, backbone.params), soft)[1], soft)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
        if remat != "full":
            grads[remat] = jax.jit(jax.grad(loss))(soft, backbone.params)
    np.testing.assert_allclose(grads["dots"], grads["none"], rtol=1e-4, atol=1e-4)
    assert kept["none"] > kept["dots"] > kept["full"]


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_unstacked_layers_are_those_of_the_stack(quantize):
    stacked = load_backbone(GOLDEN / "t5-v1_1", quantize=quantize)
    apart = load_backbone(GOLDEN / "t5-v1_1", quantize=quantize, unroll=True)
    assert apart.fingerprint == stacked.fingerprint
    for side in ("encoder", "decoder"):
        layers = apart.params[side].pop("layers")
        want = stacked.params[side].pop("layers")
        assert list(layers) == [str(n) for n in range(getattr(stacked.config, side).num_layers)]
        for number, layer in enumerate(layers.values()):
            jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(lambda x, n=number: x[n], want))
    jax.tree.map(np.testing.assert_array_equal, apart.params, stacked.params)


def test_a_stack_is_gone_when_its_layers_have_arrays_of_their_own():
    params = {"word": jnp.ones(3), "layers": {"w": jnp.arange(6).reshape(2, 3)}}
    apart = unstack(params)
    assert params["layers"]["w"].is_deleted()
    assert apart["word"] is params["word"]


def test_unrolled_layers_recompute_as_much_as_the_loop():
    """The compiler would merge what is computed again with what was computed, and keep all of it."""
    ids = jnp.zeros((1, 64), jnp.int32)
    inputs = Inputs(ids, jnp.arange(64)[None], jnp.ones_like(ids))
    products = {}
    for unroll in (False, True):
        backbone = load_backbone(GOLDEN / "gpt2", remat="full", unroll=unroll)

        def loss(soft, params, module=backbone.module):
            return (module.apply({"params": params}, inputs, soft, method="encode") ** 2).sum()

        gradient = jax.jit(jax.grad(loss)).lower(jnp.ones((2, 24)), backbone.params)
        products[unroll] = gradient.as_text().count("optimization_barrier")
    assert products[True] > products[False]
