"""The matrix products that a function computes, read from its jaxpr.

The compiler's own count, `cost_analysis`, takes the body of a loop once, however often it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


class Product(NamedTuple):
    """A `dot_general`.

    Attributes:
      shapes: of its two sides.
      batched: whether both sides have a batch axis, as in attention. A product with a weight has none.
      times: how often it is computed.
      flops: of all these times, two for a multiplication and its addition.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    batched: bool
    times: int
    flops: int


def products(function: Callable, *args) -> list[Product]:
    """What it takes to compute all outputs of `function(*args)`, without what no output needs.

    A scan's body counts as often as it runs; of the branches of a `cond`, the most expensive; of a `while`, whose end
    is not known, one turn.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return list(_products(dce_jaxpr(jaxpr, True)[0], 1))


def flops(function: Callable, *args) -> int:
    """The FLOPs of all matrix products of `function(*args)`."""
    return total(products(function, *args))


def total(found: list[Product]) -> int:
    return sum(product.flops for product in found)


def _products(jaxpr: Jaxpr, times: int) -> Iterator[Product]:
    for eqn in jaxpr.eqns:
        inner = [leaf for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]
        inner = [getattr(leaf, "jaxpr", leaf) for leaf in inner]
        if eqn.primitive.name == "dot_general":
            yield _product(eqn, times)
        elif eqn.primitive.name == "scan":
            yield from _products(*inner, times * eqn.params["length"])
        elif eqn.primitive.name == "cond":
            yield from max((list(_products(branch, times)) for branch in inner), key=total)
        else:
            for part in inner:
                yield from _products(part, times)


def _is_jaxpr(leaf) -> bool:
    return isinstance(leaf, Jaxpr | ClosedJaxpr)


def _product(eqn, times: int) -> Product:
    (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
    left, right = (operand.aval.shape for operand in eqn.invars)
    size = math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    return Product((left, right), bool(batch), times, 2 * size * times)
