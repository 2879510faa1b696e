"""What a source of rows is."""

import bisect
import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.text.values import plain

Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How a file is read, where it does not say so itself.

    Attributes:
      columns: the names of the columns of a .csv or .tsv that has no header line.
      encoding: of text.
      quotes: whether a table's values may be in quotes; None: in a .csv, not in a .tsv, as in GLUE.
      pattern: a regular expression with named groups, which become the columns: a row is a line, whatever the suffix.
      dir: where tensorflow-datasets' prepared sets are; None: TFDS_DATA_DIR, or their usual folder.
      download: whether a set that is not there is fetched and prepared.
      lazy: whether rows are read as they are asked for, where the kind of file allows it.
    """

    columns: Sequence[str] | None = None
    encoding: str = "utf-8"
    quotes: bool | None = None
    pattern: str | None = None
    dir: str | None = None
    download: bool = False
    lazy: bool = False


AS_NAMED = Reading()


class Source:
    """Rows by number.

    Attributes:
      name: what errors call it.
      label_names: by column, the names of its classes in the order of their numbers; None where the source knows none.
      blocks: the first rows of runs that are read together; None: any row is as near as any other.
    """

    name: str
    blocks: tuple[int, ...] | None = None
    label_names: Mapping[str, tuple[str, ...]] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, number: int) -> Row:
        """Returns a row, the first of which has the number 0, the last -1. Raises IndexError behind it."""
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._row(number)

    def _row(self, number: int) -> Row:
        """Returns the row of a number that there is."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that tell the rows from others."""
        raise NotImplementedError

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Puts the source's name before an InputError of what is done inside with its rows."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None


class ListSource(Source):
    """A source that is read whole when it is opened."""

    def __init__(self, name: str, rows: list[Row]):
        self.name = name
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, number: int) -> Row:
        return self._rows[number]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @functools.cached_property
    def fingerprint(self) -> str:
        try:
            text = json.dumps(self._rows, sort_keys=True, default=_plain_or_text)
        except (RecursionError, ValueError):
            raise InputError(f"{self.name}: a value nests too deeply, or holds itself (give flat rows)") from None
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class JoinedSource(Source):
    """The rows of several sources, one behind the other."""

    def __init__(self, name: str, sources: Sequence[Source]):
        self.name, self.sources = name, tuple(sources)
        sizes = [len(source) for source in self.sources]
        self._starts = [0, *itertools.accumulate(sizes)]
        if any(source.blocks is not None for source in self.sources):
            parts = zip(self.sources, self._starts, strict=False)
            self.blocks = tuple(start + first for source, start in parts for first in source.blocks or (0,))

    def __len__(self) -> int:
        return self._starts[-1]

    def _row(self, number: int) -> Row:
        place = bisect.bisect_right(self._starts, number) - 1
        return self.sources[place][number - self._starts[place]]

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(",".join(source.fingerprint for source in self.sources).encode()).hexdigest()[:12]


def file_digest(paths: Sequence[Path], more: str = "") -> str:
    """Twelve hex digits of what files hold."""
    digest = hashlib.sha256(more.encode())
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


class Unchanged:
    """Watches that a file, of which rows are read while a run goes on, holds what it held."""

    def __init__(self, path: Path):
        self._path, self._seen = path, _last_change(path)

    def check(self, source: Source) -> None:
        """Raises InputError when the file of a source, whose fingerprint is its digest, holds something else by now."""
        now = _last_change(self._path)
        # An open file outlives its name; whoever opens it once more is told.
        if now not in (None, self._seen):
            if file_digest([self._path]) != source.fingerprint:
                raise InputError(
                    f"{source.name}: the file was changed while it was read (put it back and give the same command again)"
                )
            self._seen = now


def _last_change(path: Path) -> tuple[int, int] | None:
    """A file's size and the time of its last change; None: it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def repeated(names: Sequence[str]) -> str:
    """Returns the first name that was there before. Raises StopIteration without one."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _plain_or_text(value: Any) -> Any:
    """What stands in a fingerprint for a value that JSON has no form of."""
    found = plain(value)
    return str(value) if found is value else found
