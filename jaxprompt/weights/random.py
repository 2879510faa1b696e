"""Random weights, made part by part as they are kept, in the time that it takes to load as many."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxprompt.machine.sharding import param_shardings
from jaxprompt.models import init_params
from jaxprompt.models.quantized import Quantized
from jaxprompt.weights.parts import Index, aligned_empty
from jaxprompt.weights.planned import planned_params

# Of all matrices, as in the modules' own starts.
_STD = 0.02
# A parameter of more numbers is drawn here, a smaller one by the module.
_LARGE = 1 << 20
# Rows and columns that are drawn by a generator of their own, so that no number depends on the mesh.
_BLOCK = (128, 2048)

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def random_params(
    module: nn.Module, seed: int, quantize: str | None = None, stopped: Callable[[], bool] = lambda: False
) -> Any:
    """Returns random parameters of `module` on its mesh, in its dtype or quantised as read ones would be.

    They are the same on every mesh, and no device's part of a parameter is ever held wider than it is kept. The bit
    patterns of a quantised weight are equally likely, so that its numbers are uniform. `stopped` as in `Stored.read`.
    """
    key = jax.random.key(seed)
    large = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (path, leaf) in enumerate(sorted(planned_params(module, module.mesh, quantize).items())):
            if stopped():
                raise CancelledError
            draw = functools.partial(_array, pool, (seed, number))
            if isinstance(leaf, Quantized):
                large[path] = _quantized(draw, leaf)
            elif leaf.size > _LARGE:
                large[path] = draw(leaf, _normal)
            else:
                continue
            jax.block_until_ready(large[path])
    return unflatten_dict(_small(module, key, tuple(large)) | large, sep="/")


@functools.partial(jax.jit, static_argnums=(0, 2))
def _small(module, key, without: tuple[str, ...]) -> dict[str, jax.Array]:
    """The parameters that the module draws."""
    boxed = init_params(module, key)
    where = flatten_dict(param_shardings(boxed, module.mesh), sep="/")
    params = flatten_dict(nn.meta.unbox(boxed), sep="/")
    kept = {path: param for path, param in params.items() if path not in without}
    return jax.lax.with_sharding_constraint(kept, {path: where[path] for path in kept})


def _quantized(draw: Callable[..., jax.Array], leaf: Quantized) -> Quantized:
    levels = 256 if leaf.values.dtype == np.int8 else 16
    step = _STD * 12**0.5 / levels  # of a uniform distribution with that deviation
    scale = jax.make_array_from_callback(
        leaf.scale.shape,
        leaf.scale.sharding,
        lambda index: np.full([len(range(*at.indices(n))) for at, n in zip(index, leaf.scale.shape, strict=True)], step)
        .astype(leaf.scale.dtype),
    )  # fmt: skip
    return leaf.replace(values=draw(leaf.values, _bytes), scale=scale)


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    numbers = generator.standard_normal(shape, np.float32)
    numbers *= _STD
    return numbers


def _bytes(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.integers(0, 256, shape, np.uint8)


def _array(pool: Executor, seed: tuple[int, ...], leaf: jax.ShapeDtypeStruct, draw: Draw) -> jax.Array:
    """Draws matrices `[rows, columns]` or, one per layer, `[layers, rows, columns, ...]`."""
    stacked = leaf.shape if len(leaf.shape) > 2 else (1, *leaf.shape)

    @functools.cache
    def read(*bounds: tuple[int, int]) -> np.ndarray:
        out = aligned_empty(tuple(stop - start for start, stop in bounds), leaf.dtype)

        def fill(block: tuple[tuple[int, ...], Index, Index]) -> None:
            name, target, source = block
            # The last block of an axis is as short as the parameter makes it, whatever the part.
            sizes = [
                min(size, whole - number * size)
                for number, size, whole in zip(name[1:], _BLOCK, stacked[1:], strict=False)
            ]
            drawn = draw(np.random.Generator(np.random.SFC64((*seed, *name))), (*sizes, *stacked[3:]))[source]
            out[target] = drawn.view(out.dtype) if drawn.dtype == np.uint8 else drawn

        list(pool.map(fill, _blocks(bounds)))
        return out

    def part(index: Index) -> np.ndarray:
        index = index if len(leaf.shape) > 2 else (slice(0, 1), *index)
        bounds = tuple(at.indices(size)[:2] for at, size in zip(index, stacked, strict=True))
        return read(*bounds).reshape([stop - start for start, stop in bounds[-len(leaf.shape) :]])

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)


def _blocks(bounds: tuple[tuple[int, int], ...]) -> Iterator[tuple[tuple[int, ...], Index, Index]]:
    """Yields the blocks that overlap a part: the number of each, where in the part it goes, and what of it does."""
    (first, last), *sides = bounds
    spans = [range(start // size, -(-stop // size)) for (start, stop), size in zip(sides, _BLOCK, strict=False)]
    for layer, *name in itertools.product(range(first, last), *spans):
        target, source = [slice(layer - first, layer - first + 1)], []
        for number, (start, stop), size in zip(name, sides, _BLOCK, strict=False):
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            target.append(slice(low - start, high - start))
            source.append(slice(low - number * size, high - number * size))
        yield (layer, *name), tuple(target), tuple(source)
