"""Classes: names <-> numbers."""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The names of the classes; a class's number is its place."""

    names: tuple[str, ...]

    def __post_init__(self):
        """Raises InputError for no names, or a name given twice."""
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        if not self.names:
            raise InputError("no labels (name at least one)")
        for name in self.names:
            if self.names.count(name) > 1:
                raise InputError(f"label {name!r} is given twice (remove one)")

    def label_id(self, value: Any, row: int | None = None) -> int:
        """Returns the number of a label, given by name or by number.

        A whole number, or a text of digits, is taken as the number, unless names are whole numbers too: then a
        number that is not among them is another label.

        Raises:
          InputError: it is outside the set; the message has `row`, the row's number, if given.
        """
        name = str(value)
        if name in self.names:
            return self.names.index(name)
        whole = isinstance(value, numbers.Integral) or _is_digits(value)
        if whole and not any(map(_is_digits, self.names)) and 0 <= int(value) < len(self.names):
            return int(value)
        where = "" if row is None else f"row {row}: "
        raise InputError(f"{where}unknown label {value!r}{did_you_mean(name, self.names)}")


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


def infer_labels(rows: Sequence[Mapping[str, Any]], column: str) -> LabelSet:
    """Returns the distinct values of a column, sorted: by number if all are whole numbers, else by name.

    Raises:
      InputError: a row without the column, or an empty label.
    """
    names = set()
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise InputError(f"row {number}: no column {column!r}{did_you_mean(column, row)}")
        if row[column] is None or row[column] == "":
            raise InputError(f"row {number}: column {column!r} has no label (remove the row or fill it in)")
        names.add(str(row[column]))
    whole = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)
    return LabelSet(tuple(sorted(names, key=int if whole else None)))
