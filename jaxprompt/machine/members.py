"""Members of a population, or owners of a batch, side by side: a function for each, and arrays of several lengths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxprompt.types import Batch, is_stacked

# What a layer makes of so many tokens, a CPU's caches hold: on two cores four members of 144 tokens each take 0.8 of their
# own steps' time when they are computed at once, four of 1152 take 1.14 (benchmarks/results/population.md).
TOKENS_AT_ONCE = 600


def for_each(function: Callable, members: tuple, batch: Batch, mesh: Mesh, apart: bool = False) -> Any:
    """`function(*member, batch)` of each member, stacked.

    All are computed at once, so that a weight is read once for all of them. On a single CPU, which multiplies longer than it
    reads, only as many are as its caches hold, one group after the other.

    Args:
      members: arrays with a leading axis of members.
      batch: one for all, or stacked.
      apart: whether some of a batch for all has nothing to do with the members, and is computed once where all are at once.
    """
    stacked = is_stacked(batch)
    values = (*members, batch) if stacked else members
    (rows, length), count = batch.inputs.ids.shape[-2:], len(jax.tree.leaves(members)[0])

    def of(one: tuple) -> Any:
        return function(*one) if stacked else function(*one, batch)

    some = count
    if mesh.size == 1 and mesh.devices.item().platform == "cpu" and (stacked or not apart):
        some = _divisor(count, TOKENS_AT_ONCE // (rows * length))
    if some == count:
        return jax.vmap(of)(values)
    return jax.lax.map(of, values, batch_size=some if some > 1 else None)


def padded(*arrays: jax.Array) -> jax.Array:
    """Arrays, stacked, with zeros behind the smaller ones."""
    shape = tuple(map(max, zip(*(array.shape for array in arrays), strict=True)))
    return jnp.stack([jnp.pad(a, [(0, n - m) for n, m in zip(shape, a.shape, strict=True)]) for a in arrays])


def _divisor(count: int, most: int) -> int:
    """The largest divisor of a count that is `most` or less, or 1."""
    return next((some for some in range(min(most, count), 1, -1) if count % some == 0), 1)
