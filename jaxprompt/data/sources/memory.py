"""Rows that a program holds, and what is kept of them."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from jaxprompt.data.sources.base import AS_NAMED, ListSource, Reading
from jaxprompt.errors import InputError
from jaxprompt.text.values import shown


def open_rows(rows: Iterable[Mapping[str, Any]], how: Reading = AS_NAMED) -> ListSource:
    """Returns copies of rows as a source. Raises InputError for what is no list of dictionaries, or an empty one."""
    if how.columns is not None:
        raise InputError("columns name those of a .csv or .tsv file, not of rows in memory (remove them)")
    if isinstance(rows, Mapping | bytes) or not isinstance(rows, Iterable):
        raise InputError(f"{shown(rows)} is no list of rows (give a list of dictionaries, or name a file)")
    copies = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} is {shown(row)} (give a dictionary of columns)")
        for name in row:
            if not isinstance(name, str):
                raise InputError(f"row {number} has the column {shown(name)} (name columns by texts)")
        copies.append(dict(row))
    if not copies:
        raise InputError("no rows (give at least one)")
    return ListSource("rows in memory", copies)


def memory_reference(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the text that stands for rows in a config that is kept: it tells them from others, and is not them."""
    return f"memory:{open_rows(rows).fingerprint}"


def not_kept(reference: str, how: Reading) -> NoReturn:
    """Refuses such a text."""
    raise InputError(f"{reference!r} was given in memory and not kept: pass the rows again, or name a file")
