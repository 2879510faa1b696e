"""The tokens of an example's input text, numbered, and what is learned to be added to them by their numbers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.types import Inputs


def numbered(
    params: Any,
    inputs: Inputs,
    vocab_size: int,
    scored: Bool[Array, "rows seq"] | None = None,
    first: int | Int[Array, "#rows #seq"] = 0,
) -> Inputs:
    """Returns rows with `Inputs.text`, if these parameters have something for it; else as they are.

    Args:
      params: of a backbone, see `models.adapted.adapted`.
      scored: of a causal backbone, the tokens that predict a target. What stands behind the first of them in its segment is
        no input text: a text that is written is read without it.
      first: how many tokens of the text stand before every segment, in what is computed once for all.
    """
    if "change" not in params["word"]:
        return inputs
    text = (inputs.segments > 0) & (inputs.ids < vocab_size)
    if scored is not None:
        text &= _before(scored, inputs.segments) == 0
    number = first + 1 + _before(text, inputs.segments)
    return inputs.replace(text=jnp.where(text, number, 0))


def texts_ahead(
    shared: Sequence[int] | Sequence[Sequence[int]], vocab_size: int, owners: Int[Array, "*tokens"] | None
) -> int | Int[Array, "*tokens"]:
    """How many tokens of text there are among ids that stand before everything, or before what is of each owner."""
    if not (len(shared) and isinstance(shared[0], Sequence)):
        return sum(token < vocab_size for token in shared)
    return jnp.asarray([sum(token < vocab_size for token in ids) for ids in shared])[owners]


def _before(counted: Bool[Array, "rows seq"], segments: Int[Array, "rows seq"]) -> Int[Array, "rows seq"]:
    """How many are counted before each token in its own segment."""
    before = jnp.cumsum(counted, axis=1) - counted
    starts = jnp.diff(segments, axis=1, prepend=-1) != 0
    return before - jax.lax.cummax(jnp.where(starts, before, 0), axis=1)


def changed(
    x_rse: Float[Array, "rows seq embed"],
    text: Int[Array, "rows seq"] | None,
    change: Float[Array, "*owners positions embed"] | None,
    owners: Int[Array, "rows seq"] | None = None,
) -> Float[Array, "rows seq embed"]:
    """Adds row `n - 1` of the change, or of its owner's, to the embedding of token `n` of each text; a longer text goes on
    unchanged."""
    if text is None or change is None:
        return x_rse
    known = (text > 0) & (text <= change.shape[-2])
    at = jnp.where(known, text - 1, 0)
    rows = jnp.take(change, at, axis=0) if change.ndim == 2 else change[owners, at]
    # Narrowed behind the lookup, as soft rows are.
    return x_rse + jnp.where(known[..., None], rows, 0.0).astype(x_rse.dtype)
