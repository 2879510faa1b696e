"""Soft rows that depend on the text they stand in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxprompt.types import Generator, Inputs


def generated(
    x_rse: Float[Array, "rows seq embed"], inputs: Inputs, generator: Generator | None, vocab_size: int
) -> Float[Array, "rows seq embed"]:
    """Adds to each soft token what the generator makes of its segment, from the mean of the tokens that are read there.

    A segment with soft tokens has all of them.
    """
    if generator is None or inputs.read is None:
        return x_rse
    prompt, embed, _ = generator.up.shape
    rows, seq = inputs.ids.shape
    soft = inputs.ids >= vocab_size
    # Segments by their place in the row, of which there are no more than have room for their soft tokens.
    starts = (jnp.diff(inputs.segments, axis=1, prepend=-1) != 0) & (inputs.segments > 0)
    place = jnp.cumsum(starts, axis=1) - 1
    places = max(seq // prompt, 1)
    member = (place[:, None, :] == jnp.arange(places)[:, None]) & inputs.read[:, None, :]
    member = member.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        # What is read is frozen.
        words = jax.lax.stop_gradient(x_rse).astype(jnp.float32)
        mean = jnp.einsum("rps,rse->rpe", member, words) / jnp.maximum(member.sum(-1, keepdims=True), 1.0)
        hidden = jax.nn.gelu(mean @ generator.down.T + generator.bias, approximate=False)
        made = jnp.einsum("rph,teh->rpte", hidden, generator.up).reshape(rows, places * prompt, embed)
    at = jnp.where(soft, place * prompt + inputs.ids - vocab_size, 0)
    added = jnp.take_along_axis(made, at[..., None], axis=1)
    return x_rse + jnp.where(soft[..., None], added, 0.0).astype(x_rse.dtype)
