import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.models.layers import ACTIVATIONS


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"relu2"}))
def test_large_inputs_in_float16(name):
    """Beyond 256 a square exceeds 65504."""
    x = jnp.asarray([-60000, -300, 300, 60000], jnp.float16)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(ACTIVATIONS[name])))(x)
    assert value.dtype == slope.dtype == jnp.float16
    np.testing.assert_array_equal(value, [0, 0, 300, 60000])
    np.testing.assert_array_equal(slope, [0, 0, 1, 1])
