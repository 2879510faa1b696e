"""JSON: one value per line, or a list of them."""

import json
import re
import sys
from typing import Any

from jaxprompt.data.sources.base import Row, repeated
from jaxprompt.data.sources.squad import is_squad, squad_rows
from jaxprompt.errors import InputError
from jaxprompt.text.values import shown


class _Twice(dict):
    """An object that has a key twice, of which Python would keep the last value, silently."""

    key: str


def read_json_lines(text: str, name: str) -> list[Row]:
    """Reads one row per line; blank lines are left out."""
    # Not splitlines: a line separator U+2028 may stand inside a JSON string.
    lines = enumerate(text.split("\n"), start=1)
    return [json_line(line, name, number) for number, line in lines if line.strip()]


def json_line(line: str, name: str, number: int) -> Row:
    """Reads the row on one line."""
    return _row(_parsed(line, name, number), f"{name}:{number}")


def read_json(text: str, name: str) -> list[Row]:
    """Reads a list of rows."""
    values = _parsed(text, name, 1)
    if isinstance(values, dict) and is_squad(values):
        return squad_rows(values, name)
    if not isinstance(values, list):
        raise InputError(f"{name}: holds one {type(values).__name__} (give a list, or name the file .jsonl)")
    return [_row(value, f"{name}: item {number}") for number, value in enumerate(values, start=1)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = _Twice(found)
        found.key = repeated([key for key, _ in pairs])
    return found


# Made once: `json.loads` with a hook makes a decoder for every line, which takes as long as the line.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _parsed(text: str, name: str, line: int) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{line + error.lineno - 1}"
        raise InputError(f"{place}: not JSON: {error.msg} at column {error.colno} (correct the line)") from None
    except ValueError:  # Python reads no integer of so many digits, which takes it quadratic time.
        digits = re.search(rf"(?<![\"0-9])-?[0-9]{{{sys.get_int_max_str_digits() + 1},}}", text)
        line += text.count("\n", 0, digits.start()) if digits else 0
        raise InputError(f"{name}:{line}: an integer of thousands of digits (make it a text, in quotes)") from None
    except RecursionError:
        raise InputError(f"{name}:{line}: JSON nested too deeply (give flat objects)") from None


def _row(value: Any, place: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise InputError(f"{place}: {shown(value)} is not a row (give an object or a string)")
    if isinstance(value, _Twice):
        raise InputError(f"{place}: two keys {shown(value.key)} in one object (remove one)")
    return value
