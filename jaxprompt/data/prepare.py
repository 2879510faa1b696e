"""Any rows as a prepared set of tensorflow-datasets: array_record files, which are read by number."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprompt.data.sources.base import Source
from jaxprompt.data.sources.tfds import library
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.machine.files import whole_folder
from jaxprompt.text.values import plain, shown

# Rows in a file, and rows that are handed over at a time.
SHARD_ROWS, BATCH_ROWS = 100_000, 1000
_NUMBERS = ("int", "float")


def prepare(splits: Mapping[str, Source], out: Path, tell: Callable[[str], None] = lambda message: None) -> dict:
    """Writes sources as the splits of one set.

    The values of a column are texts, whole numbers of 64 bits, numbers, booleans, lists of one of these, or objects of
    columns, and the same in every row.

    Args:
      out: a folder that is not there yet.
      tell: hears how far it is.

    Returns:
      The rows of each split, and the columns with their kinds.

    Raises:
      InputError: a row of other columns or values, a folder that is there, or one that cannot be written.
    """
    tfds = library("data prepare")
    kinds: dict[str, Any] = {}
    with whole_folder(out) as partial:
        for source in splits.values():
            for number in range(len(source)):
                with source.naming():
                    kinds = _row_kinds(source[number], kinds, number + 1)
        _write(tfds, splits, kinds, partial, out.name, tell)
    return {"rows": {name: len(source) for name, source in splits.items()}, "columns": kinds}


def _write(tfds, splits, kinds, folder: Path, name: str, tell) -> None:
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_").lower() or "rows"
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name if name[0].isalpha() else f"rows_{name}",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(folder),
        module_name=name,
    )
    features = tfds.features.FeaturesDict({column: _feature(tfds, kind) for column, kind in kinds.items()})
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="Rows written by jaxprompt.")
    with _quiet():
        writer = tfds.core.SequentialWriter(info, SHARD_ROWS, overwrite=False, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, source in splits.items():
            for start in range(0, len(source), BATCH_ROWS):
                stop = min(start + BATCH_ROWS, len(source))
                writer.add_examples({split: [_plain(source[number], kinds) for number in range(start, stop)]})
                if stop % (100 * BATCH_ROWS) == 0:
                    tell(f"{split}: {stop} of {len(source)} rows")
        writer.close_all()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the library prints is no answer of a command's, and what it logs, no news."""
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.getLogger("absl").setLevel(level)


def _row_kinds(row: Mapping[str, Any], known: dict[str, Any], number: int) -> dict[str, Any]:
    """The kinds of the columns so far, with those of a row."""
    for column in known:
        if column not in row:
            raise InputError(f"row {number}: no column {column!r}, which others have{did_you_mean(column, row)}")
    found = {}
    for column, value in row.items():
        if known and column not in known:
            raise InputError(f"row {number}: column {column!r}, which others have not{did_you_mean(column, known)}")
        try:
            found[column] = _joint(_kind(value), known.get(column))
        except InputError as error:
            raise InputError(f"row {number}: column {column!r} {error}") from None
    return found


def _kind(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InputError(f"is {shown(value)}, more than 64 bits hold (write it as a text)")
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, Mapping):
        return {str(key): _kind(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        kinds = [_kind(item) for item in value]
        if any(isinstance(kind, list | dict) for kind in kinds):
            raise InputError(f"is {shown(value)}, a list of lists or objects (make texts or columns of them)")
        joint = None
        for kind in kinds:
            joint = _joint(kind, joint)
        return [joint]
    raise InputError(f"is {shown(value)} (give a text, a number, a list or an object)")


def _joint(kind: Any, known: Any) -> Any:
    """What holds values of two kinds; None: not known yet."""
    if kind is None or known is None or kind == known:
        return known if kind is None else kind
    if isinstance(kind, list) and isinstance(known, list):
        return [_joint(kind[0], known[0])]
    if isinstance(kind, dict) and isinstance(known, dict) and kind.keys() == known.keys():
        return {key: _joint(kind[key], known[key]) for key in kind}
    if kind in _NUMBERS and known in _NUMBERS:
        return "float"
    raise InputError(f"is of the kind {kind}, in rows before {known} (make them alike)")


def _feature(tfds, kind: Any) -> Any:
    if isinstance(kind, dict):
        return tfds.features.FeaturesDict({key: _feature(tfds, of) for key, of in kind.items()})
    if isinstance(kind, list):
        return tfds.features.Sequence(_feature(tfds, kind[0] or "text"))
    if kind == "float":
        # As bytes: a protocol buffer's floats have 32 bits.
        return tfds.features.Tensor(shape=(), dtype=np.float64, encoding="bytes")
    return tfds.features.Text() if kind == "text" else tfds.features.Scalar({"int": np.int64, "bool": np.bool_}[kind])


def _plain(value: Any, kind: Any) -> Any:
    """A value as its feature takes it."""
    if isinstance(kind, dict):
        return {key: _plain(value[key], of) for key, of in kind.items()}
    if isinstance(kind, list):
        return [_plain(item, kind[0]) for item in value]
    value = plain(value)
    return float(value) if kind == "float" else value
