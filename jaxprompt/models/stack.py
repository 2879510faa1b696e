"""Runs the equal layers of a stack over their stacked parameters."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxprompt.errors import InputError, did_you_mean

_WEIGHTS = "one layer's weights"
# What the backward pass recomputes. The saved bytes per token shrink downwards.
REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    # Nothing but the slice of the stacked weights that is this layer's: kept, it would be a copy of the model.
    "none": jax.checkpoint_policies.save_anything_except_these_names(_WEIGHTS),
    # Keeps the outputs of the weight matmuls, recomputes attention weights, norms and activations.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def check_remat(remat: str) -> str:
    """Returns `remat`; raises InputError if it names no policy."""
    if remat not in REMAT_POLICIES:
        raise InputError(f"unknown remat policy {remat!r}{did_you_mean(remat, REMAT_POLICIES)}")
    return remat


def is_last(layer: Any, num_layers: int) -> bool:
    """Whether a layer of `run_layers` is known to be the last one."""
    return isinstance(layer, int) and layer == num_layers - 1


def run_layers(
    block: nn.Module,
    step: Callable[..., tuple[Any, Any]],
    carry: Any,
    prefix: Any,
    num_layers: int,
    remat: str,
    ends_apart: bool = False,
) -> tuple[Any, Any]:
    """Runs `step(block, carry, (prefix keys, prefix values), layer) -> (carry, output)` over the layers.

    The layers are one scan, in which `layer` is traced. With `ends_apart` the first and the last stand by themselves,
    where `layer` is a number, so that what they alone need not do is not done: under a learned prefix nothing below the
    first asks for a gradient, and of the last only some positions, or only keys and values, are used. It takes longer
    to compile.

    Args:
      block: the module of one layer; its parameters have a leading `layers` axis.
      carry: what a layer hands to the next; the last one may return another structure.
      prefix: `Prefix` or None, one slice of keys and values per layer.
      num_layers: at least 1.
      remat: a key of `REMAT_POLICIES`.

    Returns:
      The last carry, and the outputs stacked.
    """
    shared = (None, None) if prefix is None else (prefix.keys, prefix.values)
    if block.is_initializing():
        scan = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(block, carry, shared, jnp.arange(num_layers))
    params, free = block.variables["params"], block.clone(parent=None)

    def one(carry, layer):
        here = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), (params, shared))
        weights, prefix_kv = here
        weights = jax.tree.map(lambda x: checkpoint_name(x, _WEIGHTS), weights)
        return step(free.bind({"params": weights}), carry, prefix_kv, layer)

    def alone(carry, layer):
        run = jax.checkpoint(lambda carry: one(carry, layer), policy=REMAT_POLICIES[remat], prevent_cse=False)
        carry, out = run(carry)
        return carry, jax.tree.map(lambda x: x[None], out)

    scanned = jax.checkpoint(one, policy=REMAT_POLICIES[remat], prevent_cse=False)
    if not ends_apart:
        return jax.lax.scan(scanned, carry, jnp.arange(num_layers))
    last, outputs = num_layers - 1, []
    if last > 0:
        carry, out = alone(carry, 0)
        outputs.append(out)
    if last > 1:
        carry, out = jax.lax.scan(scanned, carry, jnp.arange(1, last))
        outputs.append(out)
    carry, out = alone(carry, last)
    outputs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
