"""The reader of safetensors files, against the reference library."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxprompt.errors import InputError
from jaxprompt.weights.safetensors_file import TYPES, open_tensors, type_name

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_reads_what_the_reference_library_wrote(tmp_path):
    rng = np.random.default_rng(0)
    kinds = [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]
    arrays = {f"{np.dtype(kind)}": (9 * rng.normal(size=(3, 5))).astype(kind) for kind in kinds}
    arrays |= {"scalar": np.array(4, np.float32), "empty": np.zeros((0, 3), np.float32), "é": np.ones(1, np.int8)}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    got = open_tensors(tmp_path / "x.safetensors")
    want = load_file(tmp_path / "x.safetensors")
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
        assert TYPES[type_name(got[name])] == array.dtype
    with pytest.raises(ValueError, match="read-only"):
        got["float32"][0] = 1


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"", b"", None),
        (b"{", b"", None),
        (b"[]", b"", None),
        (b"\xff\xfe", b"", None),
        ({"a": ENTRY}, bytes(23), None),  # a byte short
        ({"a": ENTRY}, bytes(25), None),  # a byte that belongs to nobody
        ({"a": ENTRY}, bytes(24), 10**6),
        ({"a": ENTRY}, bytes(24), 2**63),
        ({"a": ENTRY | {"shape": [2, 4]}}, bytes(24), None),
        ({"a": ENTRY | {"shape": [-2, -3]}}, bytes(24), None),
        ({"a": ENTRY | {"shape": [2, "3"]}}, bytes(24), None),
        ({"a": ENTRY | {"shape": 6}}, bytes(24), None),
        ({"a": ENTRY | {"data_offsets": [0]}}, bytes(24), None),
        ({"a": ENTRY | {"data_offsets": [1, 25]}}, bytes(25), None),
        ({"a": ENTRY | {"dtype": 3}}, bytes(24), None),
        ({"a": ENTRY, "b": ENTRY}, bytes(24), None),  # overlap
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [28, 52]}}, bytes(52), None),  # gap
        ({"a": []}, b"", None),
        (b"[" * 100_000, b"", None),
        (b'{"a":' * 100_000, b"", None),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", None),
        (b'{"a": {}, "a": {}}', b"", None),
        ({"a": ENTRY | {"shape": [10**18]}}, bytes(24), None),
        ({"a": ENTRY | {"shape": [2**62, 2**62]}}, bytes(24), None),
        ({"a": ENTRY | {"shape": [0, 10**30], "data_offsets": [0, 0]}}, b"", None),
        ({"a": ENTRY | {"shape": [1] * 3000, "data_offsets": [0, 4]}}, bytes(4), None),
        ({"a": ENTRY | {"data_offsets": [10**30, 10**30 + 24]}}, bytes(24), None),
        ({"a\nb" * 1000: ENTRY | {"data_offsets": [1, 2]}}, bytes(24), None),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, data, length):
    path = write(tmp_path / "x.safetensors", header, data, length)
    with pytest.raises(InputError, match=r"x.safetensors is damaged or truncated .*: download it again") as error:
        open_tensors(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_types_without_an_array_type_are_refused_by_name(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": ENTRY | {"dtype": "F4"}}, bytes(24))
    with pytest.raises(InputError, match="a has the type 'F4', which is not implemented"):
        open_tensors(path)


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=3))
def test_damage_never_escapes_as_another_error(tmp_path_factory, cut, flips):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_file({"a": np.ones((4, 5), np.float32), "b": np.zeros(7, np.float16)}, path)
    data = bytearray(path.read_bytes()[:cut])
    for at, value in flips:
        if at < len(data):
            data[at] = value
    path.write_bytes(bytes(data))
    try:
        tensors = open_tensors(path)
    except InputError:
        return
    for tensor in tensors.values():
        tensor.sum()
