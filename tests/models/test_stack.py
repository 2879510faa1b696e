import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone
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
