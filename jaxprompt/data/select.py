"""Rows under other names, with what lies inside their values, and only those that are wanted."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from jaxprompt.data.sources.base import Row, Source
from jaxprompt.errors import InputError, did_you_mean, listed
from jaxprompt.text.labels import canonical
from jaxprompt.text.values import as_text, plain, shown

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]{1,9}|\*)\]")
# What stands between the texts of a list, and of lists inside one.
_BETWEEN = ("; ", " | ")


class Selection:
    """What a config's `data.rename` and `data.where` make of a row.

    Args:
      rename: new name -> path of a value: a column, `answers.text`, `answers.text[0]`; `input[*]` is all of a list as one
        text, `; ` between them, and ` | ` between those of lists inside it.
      where: column -> the value, or values, that it must have, compared as labels are.

    Raises:
      InputError: a path that is none.
    """

    def __init__(self, rename: Mapping[str, str], where: Mapping[str, Any]):
        self.rename = {name: (path, _steps(path)) for name, path in rename.items()}
        self.where = {
            column: {canonical(value) for value in (values if isinstance(values, list | tuple) else [values])}
            for column, values in where.items()
        }

    def row(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The row with the new columns beside its own. Raises InputError for a path that leads nowhere."""
        new = {name: _at(row, path, steps, number) for name, (path, steps) in self.rename.items()}
        return {**row, **new} if new else row

    def takes(self, row: Mapping[str, Any], number: int) -> bool:
        """Whether `where` lets a row through, as `row` gives it. Raises InputError for a column that is not there."""
        return all(_of(row, column, number) in values for column, values in self.where.items())

    def check_any(self, rows: Sized) -> None:
        """Raises InputError where no row is left."""
        if not len(rows):
            said = ", ".join(f"{column} is {' or '.join(sorted(values))}" for column, values in self.where.items())
            raise InputError(f"no row is left where {said} (change data.where)")


def selected(
    rows: Iterable[Mapping[str, Any]], rename: Mapping[str, str], where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows that `where` lets through, each with `rename`'s columns; raises InputError as `Selection` does."""
    if not rename and not where:
        return list(rows)
    selection = Selection(rename, where)
    numbered = ((number, selection.row(row, number)) for number, row in enumerate(rows, 1))
    found = [row for number, row in numbered if selection.takes(row, number)]
    selection.check_any(found)
    return found


class SelectedSource(Source):
    """As `selected`, of a source that is read by number. With `where` it is read through once, to know which rows are left.

    Args:
      count: only so many rows, if there are more.
    """

    def __init__(self, source: Source, rename: Mapping[str, str], where: Mapping[str, Any], count: int | None = None):
        self.name, self._source, self._selection = source.name, source, Selection(rename, where)
        self._kept = np.arange(0)
        if where:
            rows = ((number, self._selection.row(source[number], number + 1)) for number in range(len(source)))
            with source.naming():
                kept = (number for number, row in rows if self._selection.takes(row, number + 1))
                self._kept = np.fromiter(itertools.islice(kept, count), np.int64)
                self._selection.check_any(self._kept)
        self._count = len(self._kept) if where else min(len(source), count or len(source))
        if source.blocks is not None:
            starts = np.searchsorted(self._kept, source.blocks) if where else np.asarray(source.blocks)
            self.blocks = tuple(np.unique(starts[starts < self._count]).tolist())

    def __len__(self) -> int:
        return self._count

    def _row(self, number: int) -> Row:
        number = int(self._kept[number]) if len(self._kept) else number
        row = self._source[number]
        with self.naming():
            return self._selection.row(row, number + 1)

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint


def _of(row: Mapping[str, Any], column: str, number: int) -> str | None:
    if column not in row:
        raise InputError(f"row {number} has no {column!r}, by which data.where chooses{did_you_mean(column, row)}")
    try:
        return canonical(row[column])
    except InputError:
        return None  # no value, which is none of those


def _steps(path: str) -> list[str | int | None]:
    """The names, places and `[*]` (None) of a path."""
    matches = list(_STEP.finditer(path))
    if not path or "".join(match.group() for match in matches) != path or not matches[0][1]:
        raise InputError(f"data.rename has the path {shown(path)} (write it as column, column.key or column[0])")
    return [match[1] if match[1] else None if match[2] == "*" else int(match[2]) for match in matches]


def _at(row: Mapping[str, Any], path: str, steps: list[str | int | None], number: int) -> Any:
    if path in row:  # a column may have a dot in its name
        return row[path]
    try:
        return _inside(row, steps, 0)
    except (KeyError, IndexError, TypeError):
        raise InputError(
            f"row {number} has nothing at {path!r}: its columns are {listed(row)} (correct data.rename)"
        ) from None


def _inside(value: Any, steps: list[str | int | None], depth: int) -> Any:
    for at, step in enumerate(steps):
        if step is None:
            parts = [_inside(item, steps[at + 1 :], depth + 1) for item in _list(value)]
            return _BETWEEN[min(depth, 1)].join(as_text(part) for part in parts)
        value = _list(value)[step] if isinstance(step, int) else value[step]
    return plain(value)


def _list(value: Any) -> Sequence[Any]:
    """A list as it is. Raises TypeError for what is none."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__getitem__"):
        raise TypeError(value)
    return value
