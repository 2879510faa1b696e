"""Classes: names <-> numbers."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from jaxprompt.errors import InputError, did_you_mean, listed
from jaxprompt.text.values import as_text, column_value, is_missing, plain, shown, where

UNLABELLED = -1
_WHOLE = re.compile(r"-?[0-9]{1,4000}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_PLACE = re.compile(r"[0-9]{1,9}")


def canonical(value: Any) -> str:
    """Returns the one text of a label, the same for data, config and command line.

    Booleans are `true` and `false`, whole floats their integers (1.0 is `1`), numpy's numbers as Python's, other numbers
    as Python writes them; a text is itself.

    Raises:
      InputError: it stands for no label (None, NaN, an empty text), or is a list or anything else that is none.
    """
    found = plain(value)
    if is_missing(found) or (isinstance(found, str) and not found.strip()):
        raise InputError(f"no label: {shown(found)} (fill it in, or remove the row)")
    if isinstance(found, float | Decimal) and math.isfinite(found) and found == int(found):
        value = int(found)
    try:
        return as_text(value)
    except InputError:
        raise InputError(f"no label: {shown(found)} (give a text, a finite number, true or false)") from None


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The names of the classes; a class's number is its place.

    Attributes:
      names: one per class, in their canonical form.
      inferred: whether they were found in the data, and so are in an order that nobody chose.
    """

    names: tuple[str, ...]
    inferred: bool = False

    def __post_init__(self):
        """Raises InputError for no names, one that is no label, or one given twice."""
        object.__setattr__(self, "names", tuple(canonical(name) for name in self.names))
        if not self.names:
            raise InputError("no labels (name at least one)")
        if len(self._by_name) < len(self.names):
            twice = next(name for place, name in enumerate(self.names) if self._by_name[name] != place)
            raise InputError(f"label {twice!r} is given twice (remove one)")

    def label_id(self, value: Any, row: int | None = None, unlabelled_ok: bool = False) -> int:
        """Returns the number of a label, given by name or by number.

        A name is looked for as it is. One that is not found is looked for once more without what other programs add
        to it: space around it, the `.0` of a whole number, a capital in `True` and `False`. A whole number, or a text of
        digits, that is no name is the number of the class, where the names were given in an order (not inferred) and
        are themselves neither numbers nor booleans. Booleans are names, never numbers.

        Args:
          row: the row's number, for messages.
          unlabelled_ok: whether -1, which GLUE's test rows have, is returned as `UNLABELLED`.

        Raises:
          InputError: it is outside the set, or stands for no label; the message has `row`.
        """
        try:
            name = canonical(value)
        except InputError as error:
            raise InputError(f"{where(row)}{error}") from None
        bare = _bare(name)
        place = self._by_name.get(name, self._by_bare.get(bare))
        if place is not None:
            return place
        if bare == "-1" and unlabelled_ok:
            return UNLABELLED
        if self._takes_numbers and _PLACE.fullmatch(bare) and int(bare) < len(self.names):
            return int(bare)
        if bare == "-1":
            raise InputError(f"{where(row)}{_NO_LABEL}")
        raise InputError(f"{where(row)}unknown label {shown(plain(value))}{self._remedy(plain(value), bare)}")

    def _remedy(self, value: Any, bare: str) -> str:
        if isinstance(value, bool) and not self._has_booleans:
            return f", a boolean (write it as one of: {listed(self.names)}; or name the labels true and false)"
        if not _PLACE.fullmatch(bare) or self._takes_numbers or self._has_numbers:
            return did_you_mean(bare, self.names)
        if self._has_booleans:
            return f" beside booleans (write it as one of: {listed(self.names)})"
        return (
            f", a number, where the training rows have the labels {listed(self.names)} (set objective.labels to these, "
            "in the order of their numbers)"
        )

    @functools.cached_property
    def _takes_numbers(self) -> bool:
        return not (self.inferred or self._has_numbers or self._has_booleans)

    @functools.cached_property
    def _has_numbers(self) -> bool:
        return any(map(_NUMBER.fullmatch, self._by_bare))

    @functools.cached_property
    def _has_booleans(self) -> bool:
        return not self._by_bare.keys().isdisjoint(("true", "false"))

    @functools.cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @functools.cached_property
    def _by_bare(self) -> dict[str, int | None]:
        """By bare name; None where two names differ in nothing else."""
        found: dict[str, int | None] = {}
        for place, name in enumerate(self.names):
            found[_bare(name)] = None if _bare(name) in found else place
        return found


_NO_LABEL = (
    "label -1 stands for no label, as in GLUE's test rows (leave such rows out, use the validation split, or name -1 in "
    "objective.labels if it is a class)"
)


def _bare(name: str) -> str:
    """A name without what other programs add to it: pandas writes integers with gaps as 1.0, and booleans as True."""
    name = name.strip()
    if name.lower() in ("true", "false"):
        return name.lower()
    whole, dot, zeros = name.partition(".")
    return str(int(whole)) if dot and zeros.strip("0") == "" and zeros and _WHOLE.fullmatch(whole) else name


def infer_labels(rows: Iterable[Mapping[str, Any]], column: str) -> LabelSet:
    """Returns the distinct values of a column, sorted: by number if all are whole numbers, else by name.

    Values that are the same label in other types or spellings (1, "1", 1.0 and " 1"; true and "True") are one class.
    -1 is a class beside numbers that are no class numbers (-1 and 1), not beside 0, 1, 2 ... or names: there it says
    that a row has no label.

    Raises:
      InputError: a row without the column, or without a label.
    """
    spellings: dict[str, set[str]] = {}
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise InputError(f"row {number}: no column {column!r}{did_you_mean(column, row)}")
        try:
            name = canonical(row[column])
        except InputError as error:
            raise InputError(f"row {number}: column {column!r} has {error}") from None
        bare = _bare(name)
        spellings.setdefault(bare, set()).add(name)
        first.setdefault(bare, number)
    names = [bare if len(same) > 1 else next(iter(same)) for bare, same in spellings.items()]
    whole = all(map(_WHOLE.fullmatch, names))
    names.sort(key=int if whole else None)
    if "-1" in spellings and (not whole or names[1:] == [str(place) for place in range(len(names) - 1)]):
        raise InputError(f"row {first['-1']}: {_NO_LABEL}")
    return LabelSet(tuple(names), inferred=True)


def by_label(rows: Sequence[Mapping[str, Any]], column: str, labels: LabelSet) -> dict[str, list[int]]:
    """Returns the indices of the rows of each label that has any. Raises InputError as `label_id`."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        label = labels.label_id(column_value(row, column, index + 1, "data.label"), index + 1)
        found.setdefault(labels.names[label], []).append(index)
    return found
