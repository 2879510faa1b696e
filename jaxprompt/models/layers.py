"""The smallest parts of every backbone.

Weights are stored as Hugging Face stores them, `[out, in]`, so that loading moves bytes and nothing else. Every
parameter carries its logical axes; `jaxprompt.machine.sharding` says where they go.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprompt.models.adapted import Adapted
from jaxprompt.models.generated import generated
from jaxprompt.models.numbered import changed
from jaxprompt.models.quantized import Quantized
from jaxprompt.ops.products import wide_einsum
from jaxprompt.types import Inputs, Late


def _tanh_gelu(x: jax.Array) -> jax.Array:
    """GELU by its approximation; in float32 of a float16 array, whose squares, in the gradient, overflow beyond 256."""
    if x.dtype != jnp.float16:
        return jax.nn.gelu(x, approximate=True)
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_python_tanh": _tanh_gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

_WEIGHT_INIT = nn.initializers.normal(0.02)


def linear(
    x: Float[Array, "*batch in"],
    weight: Float[Array, "out in"] | Quantized | Adapted,
    bias: Float[Array, " out"] | None = None,
    *,
    out_dtype: Any = None,
    owners: Int[Array, "*batch"] | None = None,
) -> Float[Array, "*batch out"]:
    """Returns `x @ weight.T + bias`, in `out_dtype` or the type of `x`; `owners` are those of a change of several.

    The one place that knows how a weight multiplies.
    """
    out_dtype = out_dtype or x.dtype
    if isinstance(weight, Adapted):
        return _changed(x, weight, bias, out_dtype, owners)
    if isinstance(weight, Quantized):
        y = weight.product(x, out_dtype)
    elif out_dtype == jnp.float32:
        y = wide_einsum("...i,oi->...o", x, weight)
    else:
        y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=out_dtype)
    return y if bias is None else y + bias.astype(y.dtype)


def _changed(x, weight: Adapted, bias, out_dtype, owners):
    """As `Delta` says, of a weight that is shifted already. What is learned is multiplied in the type of `x`."""
    delta = weight.delta

    def times(y, factor):
        if factor is None:
            return y
        return y * (factor if delta.owners is None else factor[owners]).astype(y.dtype)

    y = linear(times(x, delta.in_factor), weight.base, bias, out_dtype=out_dtype)
    if delta.a is not None:
        thin = linear(x, delta.a.astype(x.dtype))
        if delta.owners is not None:
            thin = jnp.where(owners[..., None] == jnp.asarray(delta.owners), thin, 0)
        y = y + linear(thin, delta.b.astype(x.dtype), out_dtype=out_dtype)
    return times(y, delta.factor)


def embed_ids(
    table: Float[Array, "vocab embed"],
    soft: Float[Array, "prompt embed"] | Late | None,
    ids: Int[Array, "..."],
    scale: float = 1.0,
) -> Float[Array, "... embed"]:
    """Looks ids up in the word table, times `scale`, ids `>= vocab` in the soft prompt; beyond both gives NaN.

    The slots of late rows, which nothing sees yet, get some word.
    """
    scale = jnp.asarray(scale, table.dtype)
    if soft is None:
        return jnp.take(table, ids, axis=0, mode="fill") * scale
    vocab = table.shape[0]
    is_soft = ids >= vocab
    words = jnp.take(table, jnp.where(is_soft, 0, ids), axis=0, mode="fill") * scale
    if isinstance(soft, Late):
        return words
    # Narrowed behind the lookup, so that the gradients of a row's many copies are added in the prompt's float32.
    prompts = jnp.take(soft, jnp.where(is_soft, ids - vocab, 0), axis=0, mode="fill").astype(table.dtype)
    return jnp.where(is_soft[..., None], prompts, words)


def embed_inputs(
    embed: Callable,
    inputs: Inputs,
    soft: Float[Array, "prompt embed"] | None,
    words: "Table",
) -> Float[Array, "rows seq embed"]:
    """The embeddings of rows by `embed(ids, soft)`, others mixed into them where the inputs say so, with what there is beside
    the table of words."""
    x_rse = embed(inputs.ids, soft)
    if inputs.mix_ids is not None:
        x_rse = x_rse + inputs.mix[..., None].astype(x_rse.dtype) * (embed(inputs.mix_ids, soft) - x_rse)
    x_rse = changed(x_rse, inputs.text, words.change, inputs.owners)
    return generated(x_rse, inputs, words.generator, words.rows)


class Linear(nn.Module):
    """Parameters of `linear`: `weight [out, in]`, possibly `Quantized`, and `bias [out]` if asked for.

    Attributes:
      axes: logical names of (out, in).
      out_dtype: of the output; None: that of the input.
    """

    out_size: int
    axes: tuple[str | None, str | None]
    bias: bool = True
    dtype: Any = jnp.float32
    out_dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch in"], owners: Int[Array, "*batch"] | None = None
    ) -> Float[Array, "*batch out"]:
        init = nn.with_logical_partitioning(_WEIGHT_INIT, self.axes)
        # Flax's `param` knows arrays alone.
        stored = self.get_variable("params", "weight")
        if isinstance(stored, Quantized | Adapted):
            weight = stored
        else:
            weight = self.param("weight", init, (self.out_size, x.shape[-1]), self.dtype)
        bias = None
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[:1])
            bias = self.param("bias", zeros, (self.out_size,), self.dtype)
        return linear(x, weight, bias, out_dtype=self.out_dtype, owners=owners)


class Table(nn.Module):
    """An embedding table, `weight [rows, embed]`; of words, with the change and the generator of a conditioning if there are any."""

    rows: int
    embed: int
    row_axis: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        init = nn.with_logical_partitioning(_WEIGHT_INIT, (self.row_axis, "embed"))
        self.weight = self.param("weight", init, (self.rows, self.embed), self.dtype)
        self.change, self.generator = (self.get_variable("params", name) for name in ("change", "generator"))

    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... embed"]:
        return jnp.take(self.weight, ids, axis=0, mode="fill")


class Norm(nn.Module):
    """LayerNorm (`kind="layer"`) or RMSNorm (`kind="rms"`); statistics and scaling in float32.

    Attributes:
      affine: whether there is a weight (and, in a LayerNorm, a bias).
      offset: the factor is 1 + weight.
      axes: logical name of the normed axis.
    """

    kind: str
    epsilon: float
    affine: bool = True
    offset: bool = False
    axes: tuple[str | None] = ("embed",)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        if self.affine:
            start = nn.initializers.zeros if self.offset else nn.initializers.ones
            weight = self.param("weight", nn.with_logical_partitioning(start, self.axes), (x.shape[-1],), self.dtype)
            y = y * (weight.astype(jnp.float32) + (1.0 if self.offset else 0.0))
            if self.kind == "layer":
                zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes)
                y = y + self.param("bias", zeros, (x.shape[-1],), self.dtype).astype(jnp.float32)
        return y.astype(self.dtype)
