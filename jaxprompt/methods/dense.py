"""Small networks that prompts come out of while they are learned. They start as PyTorch's layers do, as the papers' do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Layer = dict[str, Float[Array, "..."]]


def dense(key: jax.Array, inputs: int, outputs: int) -> Layer:
    """A linear layer, `weight [outputs, inputs]` and `bias [outputs]`, uniform within 1 / sqrt(inputs)."""
    return uniform_arrays(key, inputs**-0.5, weight=(outputs, inputs), bias=(outputs,))


def apply_dense(layer: Layer, x: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
    """`x @ weight.T + bias`."""
    return x @ layer["weight"].T + layer["bias"]


def lstm(key: jax.Array, inputs: int, hidden: int) -> dict[str, Layer]:
    """One bidirectional layer of an LSTM, uniform within 1 / sqrt(hidden); gates stand in the order input, forget, cell, output."""
    shapes = {"input": (4 * hidden, inputs), "state": (4 * hidden, hidden), "input_bias": (4 * hidden,)}
    keys = dict(zip(("forward", "backward"), jax.random.split(key), strict=True))
    return {way: uniform_arrays(k, hidden**-0.5, **shapes, state_bias=(4 * hidden,)) for way, k in keys.items()}


def apply_lstm(layers: dict[str, Layer], x: Float[Array, "rows inputs"]) -> Float[Array, "rows 2*hidden"]:
    """The states of both ways side by side, forward first."""
    forward = _one_way(layers["forward"], x)
    return jnp.concatenate([forward, _one_way(layers["backward"], x[::-1])[::-1]], axis=-1)


def _one_way(layer: Layer, x):
    hidden = layer["state"].shape[1]

    def step(carry, seen):
        state, cell = carry
        entering, forget, new, leaving = jnp.split(seen + layer["state"] @ state + layer["state_bias"], 4)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(entering) * jnp.tanh(new)
        state = jax.nn.sigmoid(leaving) * jnp.tanh(cell)
        return (state, cell), state

    nothing = jnp.zeros(hidden), jnp.zeros(hidden)
    return jax.lax.scan(step, nothing, x @ layer["input"].T + layer["input_bias"])[1]


def uniform_arrays(key: jax.Array, bound: float, **shapes: tuple[int, ...]) -> Layer:
    """Arrays of these shapes, uniform in `[-bound, bound]`."""
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for (name, shape), k in zip(shapes.items(), keys, strict=True)
    }
