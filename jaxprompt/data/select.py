"""Rows under other names, with what lies inside their values, and only those that are wanted."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxprompt.errors import InputError, did_you_mean, listed
from jaxprompt.text.labels import canonical
from jaxprompt.text.values import as_text, plain, shown

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]{1,9}|\*)\]")
# What stands between the texts of a list, and of lists inside one.
_BETWEEN = ("; ", " | ")


def selected(
    rows: Iterable[Mapping[str, Any]], rename: Mapping[str, str], where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rows that `where` lets through, each with `rename`'s columns beside its own.

    Args:
      rename: new name -> path of a value: a column, `answers.text`, `answers.text[0]`; `input[*]` is all of a list as one
        text, `; ` between them, and ` | ` between those of lists inside it.
      where: column -> the value, or values, that it must have, compared as labels are.

    Raises:
      InputError: a path that leads nowhere, a column that is not there, or no row that is left.
    """
    if not rename and not where:
        return list(rows)
    wanted = {
        column: {canonical(value) for value in (values if isinstance(values, list | tuple) else [values])}
        for column, values in where.items()
    }
    steps = {name: _steps(path) for name, path in rename.items()}
    found = []
    for number, row in enumerate(rows, 1):
        new = {**row, **{name: _at(row, rename[name], steps[name], number) for name in rename}}
        if all(_of(new, column, number) in values for column, values in wanted.items()):
            found.append(new)
    if not found:
        said = ", ".join(f"{column} is {' or '.join(sorted(values))}" for column, values in wanted.items())
        raise InputError(f"no row is left where {said} (change data.where)")
    return found


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
