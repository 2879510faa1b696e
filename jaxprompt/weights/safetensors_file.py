"""A safetensors file as arrays over the mapped file: nothing is read before it is used, and nothing is read twice."""

import json
import math
import mmap
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.weights.json_file import check_file, parse_object, unreadable

# The format's names of types, https://huggingface.co/docs/safetensors#format.
TYPES: Mapping[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "C64": "<c8"},
        **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BOOL": "?"},
        **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
        **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    }.items()
}
_NAMES = {kind: name for name, kind in TYPES.items()}
# The limit of the reference reader; a longer header is no header.
_LONGEST_HEADER = 100_000_000


def type_name(array: np.ndarray) -> str:
    """Returns the format's name of an array's type."""
    return _NAMES[array.dtype]


def open_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a file as read-only arrays over the mapped file; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
      InputError: the file cannot be read, is damaged or truncated, or holds a type that is not implemented.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:
        raise InputError(f"{path} is damaged or truncated (it is empty): download it again") from None
    try:
        header, data = _split(data)
        return _tensors(header, data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OverflowError, ValueError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}): download it again") from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file, one tensor after the other. Raises OSError."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": type_name(array),
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _split(data: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the header as a dict, and the bytes behind it."""
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes hold no header")
    length = int(data[:8].view("<u8")[0])
    if length > min(_LONGEST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    try:
        return parse_object(data[8 : 8 + length].tobytes()), data[8 + length :]
    except ValueError as error:
        raise ValueError(f"the header is no valid JSON: {error}") from None


def _tensors(header: Mapping[str, Any], data: np.ndarray) -> dict[str, np.ndarray]:
    tensors, end = {}, 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in entries:
        if not _is_entry(entry):
            raise ValueError(f"the header's entry of {name[:100]!r} is malformed")
    # The format allows no gaps and no overlaps, so that every byte of the file is accounted for.
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        kind, shape, (start, stop) = TYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if kind is None:
            raise InputError(
                f"{repr(name[:100])[1:-1]} has the type {entry['dtype'][:100]!r}, which is not implemented: use a checkpoint in "
                "bfloat16, float16 or float32"
            )
        if start != end or stop - start != math.prod(shape) * kind.itemsize or stop > len(data):
            where = f"of shape {reprlib.repr(shape)} cannot lie at bytes {start} to {stop} of {len(data)}"
            raise ValueError(f"{name[:100]!r} {where}")
        tensors[name] = data[start:stop].view(kind).reshape(shape)
        end = stop
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes belong to no tensor")
    return tensors


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in shape + offsets)
