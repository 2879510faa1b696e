"""Values of a row, whatever library they come from, as text: one way for fields, targets and labels."""

import math
import numbers
import re
import reprlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from jaxprompt.errors import InputError, did_you_mean, listed

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def column_value(row: Mapping[str, Any], name: str, number: int, key: str) -> Any:
    """Returns the value of a column. Raises InputError, naming the config key that names the column, without one."""
    if name in row:
        return row[name]
    raise InputError(f"row {number} has no {name!r}: its columns are {listed(row)}; set {key}")


def text_value(row: Mapping[str, Any], name: str, number: int | None, key: str | None = None) -> str:
    """Returns the text of a column: numbers are written as Python does, booleans as `true` and `false`.

    Args:
      row: values of Python's or numpy's types, by column.
      name: the column's name.
      number: the row's number, for messages.
      key: the config key that names the column, for messages; None: it is a field of the template.

    Raises:
      InputError: there is no such column, or it has no value (None, NaN, NaT, NA), or neither text nor a finite number.
    """
    if key is None and name not in row:
        raise InputError(f"{where(number)}no field {name!r}{did_you_mean(name, row)}")
    value = row[name] if key is None else column_value(row, name, number, key)
    try:
        return as_text(value)
    except InputError as error:
        raise InputError(f"{where(number)}{'field' if key is None else 'column'} {name!r} {error}") from None


def as_text(value: Any) -> str:
    """Returns a value as text, as in `text_value`. Raises InputError: what is wrong, to be put behind the value's name."""
    found = plain(value)
    if isinstance(found, str):
        if not found.isascii() and _SURROGATE.search(found):
            raise InputError("has half a surrogate pair (repair the text)")
        return str(found)
    if isinstance(found, bool):
        return "true" if found else "false"
    if is_missing(found):
        raise InputError(f"is {shown(found)} (fill it in, or remove the row)")
    try:
        if isinstance(found, numbers.Integral) or (isinstance(found, numbers.Real | Decimal) and math.isfinite(found)):
            # numpy's own text of a float32 has its digits only: 0.1, not 0.10000000149011612.
            return str(value if isinstance(value, numbers.Real) else found)
    except (ValueError, OverflowError):  # Python writes no number of so many digits, which takes it quadratic time.
        raise InputError("is too large a number (give a smaller one, or a text)") from None
    raise InputError(f"is {shown(found)} (give a text or a number)")


def check_unicode(text: str, name: str) -> None:
    """Raises InputError for half a surrogate pair, which no tokenizer can encode."""
    if not text.isascii() and _SURROGATE.search(text):
        raise InputError(f"{name} has half a surrogate pair (repair it)")


def plain(value: Any) -> Any:
    """Returns Python's own value for numpy's scalars and arrays without axes; any other as it is."""
    if isinstance(value, str):
        return value
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def is_missing(value: Any) -> bool:
    """Whether a plain value stands for none: None, NaN, and pandas' NaT and NA, which may not be imported here."""
    if isinstance(value, Decimal):
        return value.is_nan()
    nan = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and value != value
    return value is None or nan or type(value).__name__ in ("NaTType", "NAType")


def shown(value: Any) -> str:
    """Returns a value in one short line, for messages, however long or deep it is."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a value of type {type(value).__name__}"


def where(number: int | None) -> str:
    """`row 3: `, for messages; nothing without a number."""
    return "" if number is None else f"row {number}: "
