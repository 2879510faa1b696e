"""Values as they come from users' programs and files -> plain ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from jaxprompt.config.yaml import MAX_DEPTH
from jaxprompt.errors import InputError

# Rows may hold anything; only what is used of them is looked at, with its row, when it is.
_ROWS = ("data.train", "data.validation")
_LARGEST = 2**63


def plain(value: Any, key: str = "", depth: int = 0) -> Any:
    """Returns a copy of plain types: numpy's numbers, paths and tuples become Python's, text and lists.

    Args:
      key: the dotted key, for messages.

    Raises:
      InputError: a value of another type, one that holds itself, a text that no file can hold, or a huge number.
    """
    where = f"config key {key!r}" if key else "the config"
    if depth > MAX_DEPTH:
        raise InputError(f"{where} holds itself, or is nested deeper than {MAX_DEPTH} levels: give plain values")
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Mapping):
        return {name: plain(item, f"{key}.{name}" if key else str(name), depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if key in _ROWS else [plain(item, key, depth + 1) for item in value]
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise InputError(f"{where} holds a NUL or half a surrogate pair: {value!r:.80}: remove it")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise InputError(f"{where} is a number of {value.bit_length()} bits: give a smaller one")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{where} is a {type(value).__name__}: give text, a number, true, false, a list or a mapping")
