"""Scored positions only: the vocabulary head never sees a position that nobody scores.

Suffixes name axes as in `ops.attention`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Logits of one tile, in fp32, stay under this many bytes: large enough to keep a matrix unit busy, small enough that
# a 100,000-word vocabulary never shows up in the peak memory. An accelerator needs some thousand tokens for each
# reading of the head's weight.
TILE_BYTES = 64 * 2**20
ACCELERATOR_TILE_BYTES = 8 * TILE_BYTES


def gather_positions(
    hidden_rse: Float[Array, "rows seq embed"], at_rn: Int[Array, "rows n"]
) -> Float[Array, "rows n embed"]:
    """The hidden states at `at_rn`, row by row (rows may be sharded; nothing crosses them)."""
    return jnp.take_along_axis(hidden_rse, at_rn[..., None], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tile(head: Callable, params, hidden, ids):
    return _chosen(head(params, hidden), ids)[0]


def _chosen(logits, ids):
    """The log-probability of each id, and the logarithm of what it is divided by, with an axis of 1 behind."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return (jnp.take_along_axis(logits, ids[..., None], axis=-1) - total)[..., 0], total


def _tile_forward(head, params, hidden, ids):
    # A token's log-probability depends on its own hidden state alone, so one backward pass with ones gives every
    # token's gradient now, while the logits are at hand: nothing of vocabulary size is kept or computed twice.
    logits, backward = jax.vjp(lambda h: head(params, h), hidden)
    logprob, total = _chosen(logits, ids)
    # The gradient of the chosen logit minus `total`, in one pass over the logits: JAX's own rules take four.
    is_chosen = jax.lax.broadcasted_iota(ids.dtype, logits.shape, logits.ndim - 1) == ids[..., None]
    (gradient,) = backward(is_chosen - jnp.exp(logits - total))
    return logprob, gradient


def _tile_backward(head, gradient, cotangent):
    return None, (cotangent[..., None] * gradient).astype(gradient.dtype), None


_tile.defvjp(_tile_forward, _tile_backward)


def token_logprobs(
    head: Callable,
    params,
    hidden_rne: Float[Array, "rows n embed"],
    ids_rn: Int[Array, "rows n"],
    vocab_size: int,
    tile_bytes: int | None = None,
) -> Float[Array, "rows n"]:
    """Log-probability of each target id under the full vocabulary, computed tile by tile.

    Args:
      head: `head(params, hidden) -> logits [..., vocab]` in fp32. Frozen: no gradient reaches `params`.
      hidden_rne: hidden states at the scored positions.
      ids_rn: the token scored at each.
      tile_bytes: bound on the logits that exist at one time; default: `TILE_BYTES`, on an accelerator more.
    """
    if tile_bytes is None:
        tile_bytes = TILE_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_TILE_BYTES
    rows, count, width = hidden_rne.shape
    per_tile = max(1, tile_bytes // (4 * vocab_size * rows))
    if count <= per_tile:
        return _tile(head, params, hidden_rne, ids_rn)
    tiles = -(-count // per_tile)
    per_tile = -(-count // tiles)
    pad = tiles * per_tile - count
    hidden = jnp.pad(hidden_rne, ((0, 0), (0, pad), (0, 0))).reshape(rows, tiles, per_tile, width)
    ids = jnp.pad(ids_rn, ((0, 0), (0, pad))).reshape(rows, tiles, per_tile)
    logprobs = jax.lax.map(lambda tile: _tile(head, params, *tile), (hidden.swapaxes(0, 1), ids.swapaxes(0, 1)))
    return logprobs.swapaxes(0, 1).reshape(rows, tiles * per_tile)[:, :count]


def sum_by_group(
    values_rn: Float[Array, "rows n"], group_rn: Int[Array, "rows n"], groups: int
) -> Float[Array, "rows groups"]:
    """Sums a row's values by their group number."""
    rows = jnp.arange(values_rn.shape[0])[:, None]
    return jnp.zeros((values_rn.shape[0], groups), values_rn.dtype).at[rows, group_rn].add(values_rn)
