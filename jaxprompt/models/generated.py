"""Soft rows that depend on the text they stand in."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.types import Generator, Generators, Inputs, Mixture

# As torch's, of a norm.
_EPSILON = 1e-5


def generated(
    x_rse: Float[Array, "rows seq embed"],
    inputs: Inputs,
    generator: Generator | Mixture | Generators | None,
    vocab_size: int,
) -> Float[Array, "rows seq embed"]:
    """Adds to each soft token what the generator makes of its segment, from the tokens that are read there.

    A segment with soft tokens has all of them.
    """
    if generator is None or inputs.read is None:
        return x_rse
    if isinstance(generator, Generators):
        for part, start in zip(generator.parts, generator.starts, strict=True):
            x_rse = generated(x_rse, inputs, part, vocab_size + start)
        return x_rse
    make, prompt = (_mixed, generator.prompts) if isinstance(generator, Mixture) else (_made, generator.up[None])
    prompt, rows, seq = prompt.shape[1], *inputs.ids.shape
    soft = (inputs.ids >= vocab_size) & (inputs.ids < vocab_size + prompt)
    # Segments with these soft tokens, by their place in the row: there are no more than have room for the tokens.
    places = max(seq // prompt, 1)
    starts = (jnp.diff(inputs.segments, axis=1, prepend=-1) != 0) & (inputs.segments > 0)
    number = jnp.maximum(jnp.cumsum(starts, axis=1) - 1, 0)
    at_row = jnp.arange(rows)[:, None]
    has = jnp.zeros((rows, seq), bool).at[at_row, number].max(soft)[at_row, number]
    place = jnp.where(has, jnp.cumsum(starts & has, axis=1) - 1, places)
    # What is read is frozen.
    words = jax.lax.stop_gradient(x_rse).astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        made = make(generator, words, place, inputs.read, places).reshape(rows, places * prompt, -1)
    at = jnp.where(soft, place * prompt + inputs.ids - vocab_size, 0)
    added = jnp.take_along_axis(made, at[..., None], axis=1)
    return x_rse + jnp.where(soft[..., None], added, 0.0).astype(x_rse.dtype)


def _made(
    of: Generator,
    words: Float[Array, "rows seq embed"],
    place: Int[Array, "rows seq"],
    read: Bool[Array, "rows seq"],
    places: int,
) -> Float[Array, "rows places prompt embed"]:
    member = ((place[:, None, :] == jnp.arange(places)[:, None]) & read[:, None, :]).astype(jnp.float32)
    mean = jnp.einsum("rps,rse->rpe", member, words) / jnp.maximum(member.sum(-1, keepdims=True), 1.0)
    hidden = jax.nn.gelu(mean @ of.down.T + of.bias, approximate=False)
    return jnp.einsum("rph,teh->rpte", hidden, of.up)


def _mixed(
    of: Mixture,
    words: Float[Array, "rows seq embed"],
    place: Int[Array, "rows seq"],
    read: Bool[Array, "rows seq"],
    places: int,
) -> Float[Array, "rows places prompt embed"]:
    # What is not read is of a place behind all others, as segments without these soft tokens are.
    largest = jax.vmap(partial(jax.ops.segment_max, num_segments=places + 1))
    x_rpe = largest(words, jnp.where(read, place, places))[:, :places]
    hidden = jax.nn.silu(jnp.where(jnp.isfinite(x_rpe), x_rpe, 0.0) @ of.down.T) @ of.up.T
    hidden -= hidden.mean(-1, keepdims=True)
    hidden = hidden * jax.lax.rsqrt((hidden**2).mean(-1, keepdims=True) + _EPSILON) * of.scale + of.bias
    weights = jax.nn.softmax(hidden @ of.prompts.max(axis=1).T / of.temperature)
    return jnp.einsum("rpj,jte->rpte", weights, of.prompts)
