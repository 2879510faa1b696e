from concurrent.futures import ThreadPoolExecutor

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.machine.sharding import make_mesh, replicated
from jaxprompt.models.families import Weight
from jaxprompt.weights.parts import aligned_empty, fill, is_finite, views


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_views_cut_what_the_whole_has(data):
    """Parts of parameters with transposed, split, blocked and skipped rows, against the whole parameter."""
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    transpose, kind = data.draw(st.booleans()), data.draw(st.sampled_from(["plain", "part", "block", "rows"]))
    options = {"plain": {}, "part": {"part": (1, 3)}, "rows": {"rows": (2, rows + 3)}}.get(kind)
    if kind == "block":
        block = data.draw(st.sampled_from([size for size in range(1, rows + 1) if rows % size == 0]))
        options = {"part": (1, 3), "block": block}
    row = Weight("w", "w", transpose=transpose, **options)
    tensor = np.arange(row.stored_rows(rows) * columns).reshape(row.stored_rows(rows), columns)
    if kind == "block":
        whole = tensor.reshape(rows // block, 3, block, columns)[:, 1].reshape(rows, columns)
    else:
        first = {"plain": 0, "part": rows, "rows": 2}[kind]
        whole = tensor[first : first + rows]
    start, left = (data.draw(st.integers(0, size - 1)) for size in (rows, columns))
    index = (
        slice(start, data.draw(st.integers(start + 1, rows))),
        slice(left, data.draw(st.integers(left + 1, columns))),
    )
    out = np.full([part.stop - part.start for part in index], -1.0)
    with ThreadPoolExecutor(2) as pool:
        pairs = [(out[at], source) for at, source in views(tensor.T if transpose else tensor, row, rows, index)]
        fill(pool, pairs)
    np.testing.assert_array_equal(out, whole[index])


def test_large_transposed_copies_are_cut_into_whole_strips():
    source = np.random.default_rng(0).normal(size=(1500, 1031)).astype(np.float32)
    out = np.empty((1031, 1500), ml_dtypes.bfloat16)
    with ThreadPoolExecutor(2) as pool:
        fill(pool, [(out, source.T)])
    np.testing.assert_array_equal(out, source.T.astype(ml_dtypes.bfloat16))


def test_parameters_take_the_read_arrays_over():
    """On a CPU a copy would hold every parameter twice: an array on JAX's alignment is taken as it is."""
    array = aligned_empty((300, 70), np.float32)
    array[:] = 1
    placed = jax.make_array_from_callback(array.shape, replicated(make_mesh()), lambda index: array)
    assert placed.unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_largest_numbers_are_finite(kind):
    largest = np.array(ml_dtypes.finfo(kind).max, kind)
    numbers = np.stack([largest, -largest, np.array(0, kind), np.array(-0.0, kind)])
    assert is_finite(numbers)
    assert is_finite(numbers[:0])
    for value in (np.inf, -np.inf, np.nan, -np.nan):
        for at in range(len(numbers)):
            broken = numbers.copy()
            broken[at] = value
            assert not is_finite(broken)
