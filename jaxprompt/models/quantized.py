"""A weight in 8 or 4 bits: a value that knows how to multiply.

Symmetric, and of the weight alone: activations keep their type. Int8 has one scale per output channel, and the product
is multiplied by it. Int4 has one per output channel and 32 neighbouring inputs, and the weight is scaled on its way into
the matmul. Bytes hold the int4 values two by two: jnp.int4 arrays do not yet fit every compiled program's layout.
"""

import abc
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int8, UInt8

from jaxprompt.errors import InputError, did_you_mean

# Inputs that share an int4 scale; with its 16 bits that makes 4.5 bits per weight.
GROUP = 32
# Int8 values are used as fractions of 128, exact in every type: the gradient is multiplied by as much, before the product.
_UNIT = 128.0


class Quantized(struct.PyTreeNode, abc.ABC):
    """A weight `[*layers, out, in]`, of which a scan over layers may take one."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it stands for."""

    @abc.abstractmethod
    def dequantize(self, dtype: Any = jnp.float32) -> Float[Array, "*layers out in"]:
        """Returns the weight that it stands for."""

    def factor(self, dtype: Any) -> tuple[Float[Array, "out in"], Float[Array, " out"] | None]:
        """Returns what to multiply with, and what to multiply the product with (None: 1)."""
        return self.dequantize(dtype), None

    def product(self, x: Float[Array, "*batch in"], out_dtype: Any) -> Float[Array, "*batch out"]:
        """Returns `x @ weight.T` in `out_dtype`. There is a gradient with respect to `x`, and none to the weight."""
        # The rule for the gradient runs where the program's own choice is no longer known.
        return _product(x, self, jnp.dtype(out_dtype), x.dtype, jax.config.jax_default_matmul_precision)


class Int8Weight(Quantized):
    """One scale per output channel; `weight = values * scale`."""

    values: Int8[Array, "*layers out in"]
    scale: Float[Array, "*layers out"]

    @classmethod
    def abstract(cls, shape: tuple[int, ...]) -> "Int8Weight":
        """Returns shapes and types of a weight of `shape`."""
        return cls(jax.ShapeDtypeStruct(shape, jnp.int8), jax.ShapeDtypeStruct(shape[:-1], jnp.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def dequantize(self, dtype: Any = jnp.float32):
        return (self.values.astype(jnp.float32) * self.scale[..., None]).astype(dtype)

    def factor(self, dtype: Any):
        return self.values.astype(dtype) * jnp.asarray(1 / _UNIT, dtype), self.scale * _UNIT


class Int4Weight(Quantized):
    """One scale per output channel and group of inputs; the last group is filled up.

    Attributes:
      values: byte i of a group holds the group's numbers i (low half) and i + 16 (high half), each plus 8.
      in_size: how many inputs there are.
    """

    values: UInt8[Array, "*layers out groups half"]
    scale: Float[Array, "*layers out groups"]
    in_size: int = struct.field(pytree_node=False)

    @classmethod
    def abstract(cls, shape: tuple[int, ...]) -> "Int4Weight":
        """Returns shapes and types of a weight of `shape`."""
        scales = (*shape[:-1], -(-shape[-1] // GROUP))
        values = jax.ShapeDtypeStruct((*scales, GROUP // 2), jnp.uint8)
        return cls(values, jax.ShapeDtypeStruct(scales, jnp.bfloat16), shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scale.shape[:-1], self.in_size)

    def dequantize(self, dtype: Any = jnp.float32):
        # Whole groups side by side, so that a device that holds some of the groups needs no others.
        whole = jnp.concatenate([self.values & 15, self.values >> 4], axis=-1).astype(jnp.float32) - 8
        scaled = (whole * self.scale[..., None].astype(jnp.float32)).astype(dtype)
        return scaled.reshape(*self.scale.shape[:-1], -1)[..., : self.in_size]


KINDS: dict[str, type[Int8Weight] | type[Int4Weight]] = {"int8": Int8Weight, "int4": Int4Weight}


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _product(x, weight: Quantized, out_dtype, dtype, precision):
    """As `Quantized.product`; `dtype` is that of `x`, `precision` of the multiplication.

    A gradient rule of its own, because the usual one saves the widened weight for the backward pass.
    """
    return _multiply(x, weight, out_dtype, dtype, precision)


def _multiply(x, weight, out_dtype, dtype, precision):
    factor, scale = weight.factor(dtype)
    # Float16 may not hold what is yet to be scaled.
    sum_dtype = jnp.float32 if scale is not None and out_dtype == jnp.float16 else out_dtype
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    y = jax.lax.dot_general(x, factor, dims, precision, preferred_element_type=sum_dtype)
    return y if scale is None else (y * scale).astype(out_dtype)


def _forward(x, weight, out_dtype, dtype, precision):
    # Not through `_product`: what a remat policy keeps are products that it sees.
    return _multiply(x, weight, out_dtype, dtype, precision), weight


def _backward(out_dtype, dtype, precision, weight, gradient):
    factor, scale = weight.factor(dtype)
    gradient = (gradient if scale is None else gradient * scale).astype(dtype)
    return jax.lax.dot_general(gradient, factor, (((gradient.ndim - 1,), (0,)), ((), ())), precision), None


_product.defvjp(_forward, _backward)


def check_quantize(quantize: str | None) -> str | None:
    """Returns `quantize`; raises InputError unless it is None, "int8" or "int4"."""
    if quantize is not None and quantize not in KINDS:
        raise InputError(f"unknown quantize {quantize!r}{did_you_mean(quantize, KINDS)}")
    return quantize


def is_quantizable(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is one of the big matrices: those of attention and MLP, of all layers."""
    return "layers" in path.split("/") and path.endswith("/weight") and len(shape) == 3


def shardings(leaf: Quantized, weight: NamedSharding) -> Quantized:
    """Returns where an abstract weight's arrays go, by the sharding of the plain weight.

    Scales follow their values. An axis that the mesh axis does not divide is replicated.
    """
    mesh = weight.mesh
    axes = tuple(weight.spec) + (None,) * (len(leaf.shape) - len(weight.spec))

    def follow(array: jax.ShapeDtypeStruct) -> NamedSharding:
        fits = [
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, array.shape, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree.map(follow, leaf)
