import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.models.layers import embed_ids
from jaxprompt.ops.products import wide_einsum

SPEC = "rsd,td->rst"


def operands(dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((2, 5, 8), (6, 8))]


def loss(a, b):
    return (wide_einsum(SPEC, a, b) ** 2).sum()


def products(jaxpr):
    """The operand types of all dot_generals."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield {str(var.aval.dtype) for var in eqn.invars}
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_result_is_float32_and_the_gradients_are_products_of_the_operands_type(dtype):
    a, b = operands(dtype)
    assert wide_einsum(SPEC, a, b).dtype == jnp.float32
    gradient = jax.grad(loss, argnums=(0, 1))
    found = list(products(jax.make_jaxpr(gradient)(a, b).jaxpr))
    assert len(found) == 3 and all(types == {dtype} for types in found)
    want = gradient(*(x.astype(jnp.float32) for x in (a, b)))
    tolerance = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.005}[dtype]
    for got, exact in zip(gradient(a, b), want, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=tolerance * float(jnp.abs(exact).max()))


def test_gradients_of_a_soft_rows_copies_are_added_in_float32():
    table = jnp.zeros((4, 8), jnp.bfloat16)
    soft = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(2).uniform(1, 2, size=(512, 8)), jnp.bfloat16)
    ids = jnp.full(512, 4)
    found = jax.grad(lambda soft: (embed_ids(table, soft, ids) * weight).astype(jnp.float32).sum())(soft)
    # A sum of 512 numbers in bfloat16 stops growing at 256.
    np.testing.assert_allclose(found[0], weight.astype(jnp.float32).sum(0), rtol=1e-5)
