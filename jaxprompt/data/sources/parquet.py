"""Parquet."""

import bisect
import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxprompt.data.sources.base import Reading, Row, Source, Unchanged, file_digest, repeated
from jaxprompt.errors import InputError

# Groups of rows that are held: a shuffle moves among a few.
_HELD = 6


def read_parquet(file: BinaryIO, name: str) -> list[Row]:
    """Reads a Parquet file, whose nested columns become lists and dictionaries."""
    with _readable(name):
        return _columns_once(_library(name).ParquetFile(file).read(), name).to_pylist()


class ParquetSource(Source):
    """Rows of a Parquet file, a group of rows at a time. Copies in other processes open a file of their own."""

    def __init__(self, name: str, path: Path):
        self.name, self._path = name, path
        self._file: Any = None
        self._unchanged = Unchanged(path)
        self._lock, self._held = threading.Lock(), {}
        with self._lock, _readable(name):
            metadata = self._opened().metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = [0, *itertools.accumulate(sizes)]
        self.blocks = tuple(start for start, size in zip(self._starts, sizes, strict=False) if size)

    def __len__(self) -> int:
        return self._starts[-1]

    def _row(self, number: int) -> Row:
        group = bisect.bisect_right(self._starts, number) - 1
        with _readable(self.name):
            return self._group(group).slice(number - self._starts[group], 1).to_pylist()[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        return file_digest([self._path])

    def _opened(self) -> Any:
        if self._file is None:
            self._file = _library(self.name).ParquetFile(self._path)
        return self._file

    def _group(self, group: int) -> Any:
        # One reader at a time: a group is read once, however many ask for it.
        with self._lock:
            table = self._held.pop(group, None)
            if table is None:
                self._unchanged.check(self)
                table = _columns_once(self._opened().read_row_group(group), self.name)
            self._held[group] = table
            if len(self._held) > _HELD:
                del self._held[next(iter(self._held))]
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_lock": None, "_held": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _held={})


def open_parquet(path: Path, name: str, how: Reading) -> ParquetSource:
    """Opens a file to be read by number."""
    return ParquetSource(name, path)


def _library(name: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{name}: reading it needs pyarrow (pip install 'jaxprompt[parquet]')") from None
    return pyarrow.parquet


def _columns_once(table: Any, name: str) -> Any:
    names = table.column_names
    if len(set(names)) < len(names):
        raise InputError(f"{name}: two columns {repeated(names)!r} (rename one)")
    return table


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    _library(name)
    import pyarrow

    try:
        yield
    # ValueError: a time outside Python's years, or a text that is not UTF-8.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: not a readable Parquet file: {message} (write it again)") from None
