"""What a model's parameters will be, before one of them is read."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from jaxprompt.machine.sharding import param_shardings
from jaxprompt.models import init_params, quantized


def planned_params(
    module: nn.Module, mesh: Mesh, quantize: str | None = None
) -> dict[str, jax.ShapeDtypeStruct | quantized.Quantized]:
    """Returns by path the shape, type and sharding of each parameter; of one to be quantised, a `Quantized` of such."""
    boxed = _abstract(dataclasses.replace(module, mesh=None))
    shardings = flatten_dict(param_shardings(boxed, mesh), sep="/")
    planned = {}
    for path, leaf in flatten_dict(nn.meta.unbox(boxed), sep="/").items():
        sharding = shardings[path]
        if quantize is not None and quantized.is_quantizable(path, leaf.shape):
            leaf = quantized.KINDS[quantize].abstract(leaf.shape)
            sharding = quantized.shardings(leaf, sharding)
        planned[path] = jax.tree.map(
            lambda array, where: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where), leaf, sharding
        )
    return planned


@functools.lru_cache(maxsize=4)
def _abstract(module: nn.Module) -> Any:
    """The shapes of a module's parameters, with their logical axes. They are the same on every mesh."""
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0)))
