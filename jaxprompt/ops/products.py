"""Products of narrow operands with a float32 result."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def wide_einsum(spec: str, a: Shaped[Array, "..."], b: Shaped[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum` of two operands with a float32 result, whose gradient multiplies in the operands' own type."""
    narrow = a.dtype == b.dtype and a.dtype != jnp.float32
    return _narrow(spec, a, b) if narrow else jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow(spec, a, b):
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _forward(spec, a, b):
    # Not through `_narrow`: what a remat policy keeps are products that it sees.
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32), (a, b)


def _backward(spec, operands, gradient):
    # The usual rule multiplies the float32 gradient with a narrow operand, for which a GPU widens that operand and
    # leaves its fast units unused.
    a, b = operands
    gradient = gradient.astype(a.dtype)
    (to_a,) = jax.linear_transpose(lambda a: jnp.einsum(spec, a, b), a)(gradient)
    (to_b,) = jax.linear_transpose(lambda b: jnp.einsum(spec, a, b), b)(gradient)
    return to_a, to_b


_narrow.defvjp(_forward, _backward)
