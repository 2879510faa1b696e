"""Soft rows that enter at a later layer (Liu et al. 2022, arXiv:2210.11292)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.ops.views import View
from jaxprompt.types import Late, Prefix


class Entrance(struct.PyTreeNode):
    """Where late rows enter a stack of layers.

    Attributes:
      late: the rows.
      at: of each token, the row that takes its place; -1: none does.
      below: what the layers below are given, where nothing sees the slots.
    """

    late: Late
    at: Int[Array, "rows seq"]
    below: Any

    def put(self, x_rse: Float[Array, "rows seq embed"]) -> Float[Array, "rows seq embed"]:
        """Hidden states with the rows in the places of their slots'."""
        rows = jnp.take(self.late.rows, jnp.maximum(self.at, 0), axis=0, mode="fill").astype(x_rse.dtype)
        return jnp.where((self.at >= 0)[..., None], rows, x_rse)


def entrance(
    soft: Any, ids: Int[Array, "rows seq"], vocab_size: int, below: Callable[[Bool[Array, "rows seq"]], Any]
) -> Entrance | None:
    """Where the rows of `soft` enter, if they are late ones; `below(slots)` is what the layers below are given."""
    if not isinstance(soft, Late):
        return None
    slots = ids >= vocab_size
    return Entrance(soft, jnp.where(slots, ids - vocab_size, -1), below(slots))


def run_with(run: Callable, carry: Any, given: Any, late: Entrance | None, num_layers: int) -> tuple[Any, Any]:
    """Runs all layers, those below late rows apart.

    Args:
      run: `run(carry, given, range of layers) -> (carry, outputs stacked)`.
      carry: the hidden states, and something else.
      given: what the layers are given.
    """
    if late is None:
        return run(carry, given, range(num_layers))
    (x_rse, other), below = run(carry, late.below, range(late.late.layer))
    carry, above = run((late.put(x_rse), other), given, range(late.late.layer, num_layers))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), below, above)


def hiding(
    view: View,
    slots: Bool[Array, "rows kv_seq"],
    in_prefix: Bool[Array, " prefix"] | None = None,
    places: Int[Array, "#rows seq"] | None = None,
) -> View:
    """What tokens see where they do not see slots. A slot sees itself, so that none is left with nothing.

    Args:
      slots: which of the row's keys are slots; what stands ahead of them has none.
      in_prefix: which of the prefix are; None: none.
      places: of the tokens among the row's keys; None: they are the row's.
    """
    ahead = view.row.shape[2] - slots.shape[1]
    if places is None:
        places = ahead + jnp.arange(view.row.shape[1])[None]
    own = places[:, :, None] == jnp.arange(view.row.shape[2])
    row = view.row & (own | ~jnp.pad(slots, ((0, 0), (ahead, 0)))[:, None])
    if in_prefix is None:
        return view.replace(row=row)
    prefix = jnp.broadcast_to(~in_prefix, (*row.shape[:2], in_prefix.shape[0]))
    return view.replace(row=row, prefix=prefix if view.prefix is None else prefix & view.prefix)


def slots_of(prefix: Prefix | None) -> Bool[Array, " prefix"] | None:
    """Which keys of a prefix are slots; None: none."""
    return None if prefix is None else prefix.slots


def slots_behind(prefix: Prefix | None, slots: Bool[Array, " prompt"]) -> Bool[Array, " prefix_and_prompt"]:
    """Which keys of a prefix, and of a prompt behind it, are slots."""
    if prefix is None:
        return slots
    ahead = jnp.zeros(prefix.keys.shape[1], bool) if prefix.slots is None else prefix.slots
    return jnp.concatenate([ahead, slots])
