"""Scored positions only: the vocabulary head never sees a position that nobody scores.

Suffixes name axes as in `ops.attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
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


@dataclass(frozen=True)
class LossShape:
    """How a cross-entropy is changed to learn by; what is reported never is.

    Attributes:
      label_smoothing: this share of the target's probability is spread evenly over all classes, the target among them
        (Szegedy et al. 2016, section 7).
      z_loss: times the square of the softmax's log-denominator is added (T5X; Chowdhery et al. 2022, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def losses(self, chosen, total, mean):
        """The losses of what has the logits `chosen`, under softmaxes of log-denominator `total` and mean logit `mean`."""
        loss = total - chosen
        if self.label_smoothing:
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * (total - mean)
        return loss + self.z_loss * total**2 if self.z_loss else loss


PLAIN = LossShape()


class _Learned(struct.PyTreeNode):
    """What the gradient of a head that is learned needs: each leaf of its parameters as (learned, frozen), one of them None."""

    leaves: list[tuple[jax.Array | None, jax.Array | None]]
    hidden: jax.Array
    ids: jax.Array
    structure: jax.tree_util.PyTreeDef = struct.field(pytree_node=False)


def _is_primal(leaf) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tile(head: Callable, shape: LossShape, params, hidden, ids):
    return _scored(shape, head(params, hidden), ids)[:2]


def _scored(shape, logits, ids):
    """The loss and the log-probability of each id, and the log-denominator with an axis of 1 behind."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)
    mean = logits.mean(-1, keepdims=True) if shape.label_smoothing else None
    return shape.losses(chosen, total, mean)[..., 0], (chosen - total)[..., 0], total


def _tile_forward(head, shape, params, hidden, ids):
    leaves, structure = jax.tree.flatten(params, is_leaf=_is_primal)
    params, (hidden, ids) = structure.unflatten([leaf.value for leaf in leaves]), (hidden.value, ids.value)
    if any(leaf.perturbed for leaf in leaves):
        # The head itself is learned: what it gets is added over tokens, so it waits for what they count.
        loss, logprob = _tile(head, shape, params, hidden, ids)
        parts = [(leaf.value, None) if leaf.perturbed else (None, leaf.value) for leaf in leaves]
        return (loss, logprob), _Learned(parts, hidden, ids, structure)
    # A token's loss depends on its own hidden state alone, so one backward pass with ones gives every token's gradient
    # now, while the logits are at hand: nothing of vocabulary size is kept or computed twice.
    logits, backward = jax.vjp(lambda h: head(params, h), hidden)
    loss, logprob, total = _scored(shape, logits, ids)
    # The gradient by the logits in one pass over them: JAX's own rules take four.
    is_chosen = jax.lax.broadcasted_iota(ids.dtype, logits.shape, logits.ndim - 1) == ids[..., None]
    wanted = (1.0 - shape.label_smoothing) * is_chosen + shape.label_smoothing / logits.shape[-1]
    (gradient,) = backward(jnp.exp(logits - total) * (1.0 + 2.0 * shape.z_loss * total) - wanted)
    return (loss, logprob), gradient


def _tile_backward(head, shape, kept, cotangents):
    cotangent = cotangents[0]
    if isinstance(cotangent, SymbolicZero):
        return None, None, None
    if not isinstance(kept, _Learned):
        return None, (cotangent[..., None] * kept).astype(kept.dtype), None

    def loss(learned, hidden):
        leaves = [frozen if one is None else one for one, (_, frozen) in zip(learned, kept.leaves, strict=True)]
        return _scored(shape, head(kept.structure.unflatten(leaves), hidden), kept.ids)[0]

    to_learned, to_hidden = jax.vjp(loss, [learned for learned, _ in kept.leaves], kept.hidden)[1](cotangent)
    return kept.structure.unflatten(to_learned), to_hidden, None


_tile.defvjp(_tile_forward, _tile_backward, symbolic_zeros=True)


def token_losses(
    head: Callable,
    params,
    hidden_rne: Float[Array, "rows n embed"],
    ids_rn: Int[Array, "rows n"],
    vocab_size: int,
    shape: LossShape = PLAIN,
    tile_bytes: int | None = None,
    shards: int = 1,
) -> tuple[Float[Array, "rows n"], Float[Array, "rows n"]]:
    """Loss and log-probability of each target id under the full vocabulary, computed tile by tile.

    Args:
      head: `head(params, hidden) -> logits [..., vocab]` in fp32.
      params: where they are frozen nothing is spent on them; where they are learned, the logits are computed twice.
      hidden_rne: hidden states at the scored positions.
      ids_rn: the token scored at each.
      shape: how the losses are shaped.
      tile_bytes: bound on the logits that exist at one time on a device; default: `TILE_BYTES`, on an accelerator more.
      shards: devices that the rows are split over. Every tile reads the whole head: with fewer rows each, larger ones.

    Returns:
      The losses, and the log-probabilities to report: no gradient flows through these.
    """
    if tile_bytes is None:
        tile_bytes = TILE_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_TILE_BYTES
    rows, count, width = hidden_rne.shape
    per_tile = max(1, tile_bytes * shards // (4 * vocab_size * rows))
    if count <= per_tile:
        return _tile(head, shape, params, hidden_rne, ids_rn)
    tiles = -(-count // per_tile)
    per_tile = -(-count // tiles)
    pad = tiles * per_tile - count
    hidden = jnp.pad(hidden_rne, ((0, 0), (0, pad), (0, 0))).reshape(rows, tiles, per_tile, width)
    ids = jnp.pad(ids_rn, ((0, 0), (0, pad))).reshape(rows, tiles, per_tile)
    found = jax.lax.map(lambda tile: _tile(head, shape, params, *tile), (hidden.swapaxes(0, 1), ids.swapaxes(0, 1)))
    return tuple(values.swapaxes(0, 1).reshape(rows, tiles * per_tile)[:, :count] for values in found)


def sum_by_group(
    values_rn: Float[Array, "rows n"], group_rn: Int[Array, "rows n"], groups: int
) -> Float[Array, "rows groups"]:
    """Sums a row's values by their group number."""
    rows = jnp.arange(values_rn.shape[0])[:, None]
    return jnp.zeros((values_rn.shape[0], groups), values_rn.dtype).at[rows, group_rn].add(values_rn)
