"""Parts of parameters, filled from mapped files by all cores: cast, transposed and stacked in one pass."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np

from jaxprompt.models.families import Weight
from jaxprompt.weights.rounding import quantize_rows

# Bytes of the target that one task fills.
_TASK = 8 << 20
# Float32 bytes that are quantised at a time: what stays in a core's cache.
_TILE = 1 << 20
# Stored bytes that are copied, and then looked through for NaN while they are in a core's cache.
_SEEN = 1 << 20
# JAX takes an array on the host over without copying if it is aligned to this, and XLA asks for no more.
_ALIGNMENT = 64

Index = tuple[slice, ...]


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an uninitialised array that JAX takes over as it is on a CPU."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def views(stored: np.ndarray, row: Weight, out_size: int, index: Index) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields what makes up a part of a parameter of one layer: rows of the part, and the stored values of those.

    Args:
      stored: the tensor in the file.
      row: which of it is the parameter, `[out_size, ...]`.
      index: the part, with starts and stops.
    """
    tensor = stored.T if row.transpose else stored
    start, stop = index[0].start, index[0].stop
    which, count = row.part
    at = start
    while at < stop:
        if row.block:
            block = at // row.block
            end = min(stop, (block + 1) * row.block)
            first = at + (block * (count - 1) + which) * row.block
        else:
            end = stop
            first = at + (row.rows[0] if row.rows is not None else which * out_size)
        yield slice(at - start, end - start), tensor[(slice(first, first + end - at), *index[1:])]
        at = end


def fill(pool: Executor, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Copies each source into its target, cast to the target's type; returns whether all stored numbers are finite."""
    tasks = [task for target, source in pairs for task in _split(target, source)]
    # The list raises what a task raised.
    return all(list(pool.map(lambda task: copy(*task), tasks)))


def _split(target: np.ndarray, source: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts a copy into tasks, along the axis along which the source lies in the file."""
    axis = 1 if _is_transposed(source) else 0
    length = target.shape[axis]
    step = max(1, length * _TASK // max(target.nbytes, 1))
    for first in range(0, length, step):
        part = (slice(None),) * axis + (slice(first, first + step),)
        yield target[part], source[part]


def _is_transposed(array: np.ndarray) -> bool:
    return array.ndim == 2 and abs(array.strides[0]) < abs(array.strides[1])


def copy(target: np.ndarray, source: np.ndarray) -> bool:
    """Copies with a cast; a transposed source by strips as wide as a cache line of the target.

    Returns whether all stored numbers are finite.
    """
    source = np.asarray(source)  # one that is packed is unpacked here, a task at a time
    transposed = _is_transposed(source)
    if transposed:
        axis, step = 1, max(1, 64 // target.itemsize)
    else:
        axis, step = 0, max(1, _SEEN * len(source) // max(source.nbytes, 1))
    finite = True
    with np.errstate(over="ignore", invalid="ignore"):  # The caller is told, and looks for what float16 cannot hold.
        for first in range(0, source.shape[axis], step):
            part = (slice(None),) * axis + (slice(first, first + step),)
            np.copyto(target[part], source[part], casting="unsafe")
            finite = finite and is_finite(source[part].T if transposed else source[part])
    return finite


def is_finite(numbers: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; in one or two passes that NumPy does many numbers at a time."""
    if numbers.itemsize == 2:
        # The exponent is all ones from here on, as integers of either sign.
        first = 0x7C00 if numbers.dtype == np.float16 else 0x7F80
        largest = numbers.view(np.int16).max(initial=0), numbers.view(np.uint16).max(initial=0)
        return bool(largest[0] < first and largest[1] < first + 0x8000)
    # A sum of numbers is hardly ever infinite if none of them is; einsum's is the fastest.
    return bool(np.isfinite(np.einsum("i->", numbers.reshape(-1))) or np.isfinite(numbers).all())


def quantize(pool: Executor, layers: Iterable[tuple[list[tuple[slice, np.ndarray]], np.ndarray, np.ndarray]]) -> bool:
    """Quantises layers; returns whether all stored numbers are finite.

    Args:
      layers: per layer its `views` of whole rows `[out, in]`, and the values and scales to fill.
    """
    tasks = []
    for parts, values, scale in layers:
        for rows, source in parts:
            step = max(1, _TILE // (4 * source.shape[1]))
            for first in range(rows.start, rows.stop, step):
                at = slice(first, min(first + step, rows.stop))
                here = slice(at.start - rows.start, at.stop - rows.start)
                tasks.append((source[here], values[at], scale[at]))

    def run(task):
        source, values, scale = task
        tile = np.empty(source.shape, np.float32)
        if not copy(tile, source):
            return False
        quantize_rows(tile, values, scale)
        return True

    return all(list(pool.map(run, tasks)))
