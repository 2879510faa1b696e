"""A GGUF file: its metadata, and its tensors over the mapped file, unpacked where they are copied from.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What a file says of lengths is compared with its size
before anything is made of it. Packed types are the `gguf` library's.
"""

import functools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.weights.json_file import check_file, unreadable

_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
# A string is at least its length, a tensor's entry its fixed part: no file has room for more of them.
_LEAST_ENTRY = 24
_VERSIONS = (2, 3)
_MOST_AXES = 4


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """Numbers in a packed type, `[rows, width]`, that NumPy takes for float32: unpacked where they are copied from.

    Slices and transposition are of what is unpacked; rows are unpacked alone, columns whole.

    Attributes:
      stored: `[rows, bytes]` of the mapped file.
      kind: the `gguf.GGMLQuantizationType`.
      width: numbers in a row.
      columns: the first of those that are left, and where they end.
      transposed: whether it is seen with its axes exchanged.
    """

    stored: np.ndarray
    kind: Any
    width: int
    columns: tuple[int, int]
    transposed: bool = False

    dtype = np.dtype(np.float32)
    itemsize = 4
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        shape = len(self.stored), self.columns[1] - self.columns[0]
        return shape[::-1] if self.transposed else shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def strides(self) -> tuple[int, int]:
        strides = self.itemsize * self.width, self.itemsize
        return strides[::-1] if self.transposed else strides

    @property
    def T(self) -> "PackedTensor":
        return PackedTensor(self.stored, self.kind, self.width, self.columns, not self.transposed)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | tuple[slice, ...]) -> "PackedTensor":
        index = index if isinstance(index, tuple) else (index,)
        index = (*index, *(slice(None),) * (2 - len(index)))
        rows, columns = index[::-1] if self.transposed else index
        left = range(*self.columns)[columns]
        return PackedTensor(self.stored[rows], self.kind, self.width, (left.start, left.stop), self.transposed)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        from gguf.quants import dequantize

        whole = dequantize(np.ascontiguousarray(self.stored), self.kind)[:, slice(*self.columns)]
        whole = whole.T if self.transposed else whole
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def rearranged(self, rows: np.ndarray) -> "PackedTensor":
        """The same with its rows in another order."""
        return PackedTensor(self.stored[rows], self.kind, self.width, self.columns, self.transposed)


@dataclass(frozen=True)
class GgufFile:
    """What a file holds.

    Attributes:
      metadata: numbers and texts by key; arrays of numbers are NumPy's, of texts lists.
      tensors: by name; those of one axis are float32, those of two `PackedTensor`.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray | PackedTensor]


@functools.lru_cache(maxsize=2)
def _opened(path: Path, size: int, time: int) -> GgufFile:
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    try:
        return _read(path, data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, OverflowError, struct.error) as error:
        raise InputError(f"{path} is damaged or truncated ({error}): download it again") from None


def open_gguf(path: Path) -> GgufFile:
    """Opens a file; its header is read once for its config, its weights and its tokenizer.

    Raises:
      InputError: the library `gguf` is not installed; the file cannot be read, is damaged, truncated, of another version or
        byte order, or holds a type that is not implemented.
    """
    check_file(path)
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise InputError(f'{path} is a GGUF file, which is read with gguf (pip install "jaxprompt[gguf]")') from None
    try:
        status = path.stat()
        if not status.st_size:
            raise InputError(f"{path} is empty: download it again")
        return _opened(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error) from None


class _Cursor:
    """Reads on in the mapped file, never beyond its end."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = data, 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, where {size} more are needed at {self.at}")
        self.at += size
        return memoryview(self.data)[self.at - size : self.at]

    def number(self, kind: str) -> int:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        data = bytes(self.take(self.number("<Q")))
        try:
            return data.decode()
        except UnicodeDecodeError:
            # A token may be a part of a character.
            return data.decode("utf-8", "surrogateescape")

    def count(self, least: int, what: str) -> int:
        """How many of something follow, each of at least so many bytes."""
        count = self.number("<Q")
        if count > (len(self.data) - self.at) // least:
            raise ValueError(f"it says that {count} {what} follow, in {len(self.data) - self.at} bytes")
        return count

    def value(self, kind: int, inside: bool = False) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and not inside:
            inner = self.number("<I")
            if inner in _SCALARS:
                dtype = np.dtype(_SCALARS[inner])
                return np.frombuffer(self.take(self.count(dtype.itemsize, "numbers") * dtype.itemsize), dtype)
            return [self.value(inner, inside=True) for _ in range(self.count(8, "texts"))]
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()
        raise ValueError(f"a value of type {kind} at byte {self.at}")


def _read(path: Path, data: np.ndarray) -> GgufFile:
    cursor = _Cursor(data)
    if bytes(cursor.take(4)) != b"GGUF":
        raise InputError("is no GGUF file (name one, or a folder of Hugging Face files)")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        big = version and not version & 0xFFFF
        what = "in big-endian byte order" if big else f"of version {version}"
        raise InputError(f"is a GGUF file {what}, which is not implemented: use one of version 3, little-endian")
    tensors, entries = cursor.count(_LEAST_ENTRY, "tensors"), cursor.count(13, "entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"the key {key[:100]!r} occurs twice")
        metadata[key] = cursor.value(cursor.number("<I"))
    infos = {}
    for _ in range(tensors):
        name, axes = cursor.text(), cursor.number("<I")
        if name in infos or not 1 <= axes <= _MOST_AXES:
            raise ValueError(f"the tensor {name[:100]!r} " + ("occurs twice" if name in infos else f"has {axes} axes"))
        infos[name] = [cursor.number("<Q") for _ in range(axes)], cursor.number("<I"), cursor.number("<Q")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    return GgufFile(path, metadata, {name: _tensor(name, data[start:], *info) for name, info in infos.items()})


def _tensor(name: str, data: np.ndarray, axes: list[int], kind: int, offset: int) -> np.ndarray | PackedTensor:
    """A tensor of a file's data; its axes are named from the last one on."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    axes = [*axes, 1] if len(axes) == 1 else axes
    width, rows = axes[0], math.prod(axes[1:])
    try:
        kind = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise InputError(f"tensor {name[:100]!r} has the unknown type {kind}: use another quantisation") from None
    if width % block or not width or not rows:
        raise ValueError(f"tensor {name[:100]!r} is {axes}, in blocks of {block}")
    row = width // block * size
    if offset > len(data) or rows * row > len(data) - offset:
        raise ValueError(f"tensor {name[:100]!r} needs {rows * row} bytes at {offset} of {len(data)}")
    stored = data[offset : offset + rows * row].reshape(rows, row)
    try:
        quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        raise InputError(
            f"tensor {name[:100]!r} is {kind.name}, which cannot be unpacked: use another quantisation"
        ) from None
    packed = PackedTensor(stored, kind, width, (0, width))
    return np.asarray(packed)[0] if axes[1:] == [1] else packed
