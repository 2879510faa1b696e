"""What a source of rows is."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """

    columns: Sequence[str] | None = None
    encoding: str = "utf-8"
    quotes: bool | None = None
    pattern: str | None = None
    dir: str | None = None
    download: bool = False


AS_NAMED = Reading()


class Source:
    """Rows by number.

    Attributes:
      name: what errors call it.
      label_names: by column, the names of its classes in the order of their numbers; None where the source knows none.
    """

    name: str
    label_names: Mapping[str, tuple[str, ...]] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, number: int) -> Row:
        """Returns a row, the first of which has the number 0. Raises IndexError behind the last."""
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

    def __getitem__(self, number: int) -> Row:
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


def repeated(names: Sequence[str]) -> str:
    """Returns the first name that was there before. Raises StopIteration without one."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _plain_or_text(value: Any) -> Any:
    """What stands in a fingerprint for a value that JSON has no form of."""
    found = plain(value)
    return str(value) if found is value else found
