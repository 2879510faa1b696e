"""Values as they come from users' programs and files -> plain ones."""

import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from jaxprompt.config.yaml import MAX_DEPTH, MAX_VALUES
from jaxprompt.errors import InputError

# Rows may hold anything; only what is used of them is looked at, with its row, when it is.
_ROWS = ("data.train", "data.validation")
_PATHS = ("model", "run_dir", "method.init.path", *_ROWS)
_LARGEST = 2**63
_FLOAT_MAX, _FLOAT_MIN = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def _among(names: tuple[str, ...], key: str) -> bool:
    """Whether a dotted key is one of these, of the config or of one of its tasks."""
    return key in names or (key.startswith("tasks.") and key.endswith(tuple(f".{name}" for name in names)))


def plain(value: Any, key: str = "") -> Any:
    """Returns a copy of plain types: numpy's numbers, paths and tuples become Python's, text and lists.

    Args:
      key: the dotted key, for messages.

    Raises:
      InputError: a value of another type, one that holds itself, a text that no file can hold, a name that no file can
        have, or a number that float32 takes for infinity or zero.
    """
    values = 0

    def copy(value: Any, key: str, depth: int) -> Any:
        nonlocal values
        values += 1
        where = f"config key {brief(key)}" if key else "the config"
        if depth > MAX_DEPTH:
            raise InputError(f"{where} holds itself, or is nested deeper than {MAX_DEPTH} levels: give plain values")
        if values > MAX_VALUES:
            raise InputError(f"{where} has more than {MAX_VALUES} keys and values: give fewer")
        if isinstance(value, BaseModel):
            value = _as_set(value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, PurePath):
            value = str(value)
        if isinstance(value, Mapping):
            found = {}
            for name, item in value.items():
                name = copy(name, key, depth) if isinstance(name, str | int | float | np.generic) else name
                if not isinstance(name, str | int | float | None):
                    raise InputError(f"{where} has a key of type {type(name).__name__!r}: give text or a number")
                found[name] = copy(item, f"{key}.{name}" if key else str(name), depth + 1)
            return found
        if isinstance(value, list | tuple):
            return list(value) if _among(_ROWS, key) else [copy(item, key, depth + 1) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(str.__str__(value), where, is_path=_among(_PATHS, key))
        if isinstance(value, int):
            value = int(value)
            if not -_LARGEST <= value < _LARGEST:
                raise InputError(f"{where} is a number of {value.bit_length()} bits: give a smaller one")
            return value
        if isinstance(value, float):
            value = float(value)
            if _FLOAT_MAX < abs(value) < np.inf or 0 < abs(value) < _FLOAT_MIN:
                raise InputError(
                    f"{where} is {value!r}, which is {'infinite' if abs(value) > 1 else 'zero'} in float32: give a "
                    f"{'smaller' if abs(value) > 1 else 'larger'} number"
                )
            return value
        raise InputError(
            f"{where} is of type {type(value).__name__!r}: give text, a number, true, false, a list or a mapping"
        )

    return copy(value, key, 0)


def brief(value: Any) -> str:
    """How a plain value is shown in a message: on one line, and of no more than a hundred letters."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:60]} ... {shown[-30:]}"


def _as_set(options: BaseModel) -> dict[str, Any]:
    """What was set of a section's options, and which choice they are."""
    fields = type(options).model_fields
    chosen = {name for name, field in fields.items() if _is_one_word(field.annotation)}
    return {name: getattr(options, name) for name in fields if name in chosen | options.model_fields_set}


def _is_one_word(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Literal and len(typing.get_args(annotation)) == 1


def _text(value: str, where: str, is_path: bool) -> str:
    if "\0" in value:
        raise InputError(f"{where} holds a NUL: {brief(value)}: remove it")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise InputError(f"{where} holds half a surrogate pair, which is no text: {brief(value)}: remove it")
    if is_path:
        longest = max(len(part.encode()) for part in value.split("/"))
        if longest > 255 or len(value.encode()) > 2000:
            raise InputError(
                f"{where} is {brief(value)}: the name of a file has 255 bytes at most, with its folders 2000: shorten it"
            )
    return value
