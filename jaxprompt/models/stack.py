"""Runs the equal layers of a stack, over stacked parameters or parameters of their own."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.models.adapted import LastLayers
from jaxprompt.ops.flash import SAVED

_WEIGHTS = "one layer's weights"
# What the backward pass recomputes. The saved bytes per token shrink downwards.
REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    # Nothing but the slice of the stacked weights that is this layer's: kept, it would be a copy of the model.
    "none": jax.checkpoint_policies.save_anything_except_these_names(_WEIGHTS),
    # Keeps the outputs of the weight matmuls, recomputes attention weights, norms and activations.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(SAVED)
    ),
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


def unstack(params: Any) -> Any:
    """Gives every layer arrays of its own: `{"0": ..., "1": ...}` where stacked layers have a leading axis.

    A loop copies a layer's weights out of the stack each time it comes to it, and what the backward pass will need into
    another stack; `run_layers` runs the layers of such parameters one after the other, with neither. The stacked arrays
    are deleted as they are taken apart, so that one of them at a time exists twice.
    """
    if not isinstance(params, dict):
        return params
    return {name: _split(tree) if name == "layers" else unstack(tree) for name, tree in params.items()}


def unstacked_shapes(params: Any) -> Any:
    """What `unstack` will make of parameters of which there are shapes and shardings only."""
    if not isinstance(params, dict):
        return params
    found = {}
    for name, tree in params.items():
        if name == "layers":
            layer, count = jax.tree.map(_one_shape, tree), jax.tree.leaves(tree)[0].shape[0]
            found[name] = {str(number): layer for number in range(count)}
        else:
            found[name] = unstacked_shapes(tree)
    return found


def _one_shape(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    # Layers are never split over devices.
    sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(*leaf.sharding.spec[1:]))
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)


_take = jax.jit(partial(jax.lax.dynamic_index_in_dim, keepdims=False))


def _split(layers: Any) -> dict[str, Any]:
    leaves, structure = jax.tree.flatten(layers)
    count, apart = leaves[0].shape[0], []
    for leaf in leaves:
        apart.append(jax.block_until_ready([_take(leaf, layer) for layer in range(count)]))
        leaf.delete()
    return {str(layer): structure.unflatten([of[layer] for of in apart]) for layer in range(count)}


def _is_of_last(leaf: Any) -> bool:
    return isinstance(leaf, LastLayers)


def run_layers(
    block: nn.Module,
    step: Callable[..., tuple[Any, Any]],
    carry: Any,
    prefix: Any,
    num_layers: int,
    remat: str,
    ends_apart: bool = False,
    within: range | None = None,
) -> tuple[Any, Any]:
    """Runs `step(block, carry, (prefix keys, prefix values), layer) -> (carry, output)` over the layers.

    The layers are one scan, in which `layer` is traced. With `ends_apart` the first and the last stand by themselves,
    where `layer` is a number, so that what they alone need not do is not done: under a learned prefix nothing below the
    first asks for a gradient, and of the last only some positions, or only keys and values, are used. It takes longer
    to compile. With parameters that are not stacked every layer stands by itself. What only the last layers have
    (`LastLayers`) divides the loop in two, of which the first then asks for no gradient either.

    Args:
      block: the module of one layer; its parameters have a leading `layers` axis, or are as `unstack` makes them.
      carry: what a layer hands to the next; the last one may return another structure.
      prefix: `Prefix` or None, one slice of keys and values per layer.
      num_layers: at least 1.
      remat: a key of `REMAT_POLICIES`.
      within: the layers that are run; None: all.

    Returns:
      The last carry, and the outputs stacked.
    """
    shared = None if prefix is None else (prefix.keys, prefix.values)
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
    unrolled = "0" in params
    entering = {leaf.first(num_layers) for leaf in jax.tree.leaves(params, is_leaf=_is_of_last) if _is_of_last(leaf)}

    def one(carry, layer, start):
        take = partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)

        def weight(leaf):
            if not _is_of_last(leaf):
                return checkpoint_name(take(leaf), _WEIGHTS)
            return leaf.of(layer, num_layers) if start >= leaf.first(num_layers) else None

        weights = params[str(layer)] if unrolled else jax.tree.map(weight, params, is_leaf=_is_of_last)
        return step(free.bind({"params": weights}), carry, jax.tree.map(take, shared), layer)

    def alone(carry, layer):
        # In straight-line code the compiler would merge what is computed again with its first time, and keep it.
        run = partial(one, layer=layer, start=layer)
        carry, out = jax.checkpoint(run, policy=REMAT_POLICIES[remat], prevent_cse=unrolled)(carry)
        return carry, jax.tree.map(lambda x: x[None], out)

    def loop(carry, start, stop):
        looped = jax.checkpoint(partial(one, start=start), policy=REMAT_POLICIES[remat], prevent_cse=False)
        return jax.lax.scan(looped, carry, jnp.arange(start, stop))

    within = range(num_layers) if within is None else within
    cuts = {0, num_layers} | entering | ({1, num_layers - 1} if ends_apart else set())
    cuts = range(num_layers + 1) if unrolled else cuts | {within.start, within.stop}
    outputs = []
    for start, stop in itertools.pairwise(sorted(cut for cut in cuts if within.start <= cut <= within.stop)):
        single = stop - start == 1 and (unrolled or ends_apart)
        carry, out = alone(carry, start) if single else loop(carry, start, stop)
        outputs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
