"""The numbers that a method computes with: members of a population may differ in them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxprompt.methods.base import Method
from jaxprompt.methods.starts import Init


def numbers_of(method: Method) -> dict[str, float]:
    """The fields of a method, and of its parts, that are no whole numbers, by their paths."""
    found = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if isinstance(value, float):
            found[field.name] = value
        for name, part in _parts(value).items():
            found |= {f"{field.name}.{name}.{path}": number for path, number in numbers_of(part).items()}
    return found


def rest_of(method: Method) -> dict[str, Any]:
    """What members of a population must have alike: all but numbers, lengths, and where a method starts."""
    found: dict[str, Any] = {"": type(method)}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if _parts(value):
            found[field.name] = {name: rest_of(part) for name, part in _parts(value).items()}
        elif field.name not in ("length", "positions") and not isinstance(value, float | Init):
            found[field.name] = value
    return found


def with_numbers(method: Method, numbers: Mapping[str, Any]) -> Method:
    """The method with other numbers, which may be traced; those that are not named stay."""
    changes = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name in numbers:
            changes[field.name] = numbers[field.name]
        parts = _parts(value)
        if parts:
            own = {name: _below(numbers, f"{field.name}.{name}.") for name in parts}
            changes[field.name] = {name: with_numbers(part, own[name]) for name, part in parts.items()}
    return dataclasses.replace(method, **changes) if numbers else method


def _parts(value: Any) -> dict[str, Any]:
    kept = isinstance(value, Mapping) and value and all(map(dataclasses.is_dataclass, value.values()))
    return dict(value) if kept else {}


def _below(numbers: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {name.removeprefix(path): number for name, number in numbers.items() if name.startswith(path)}
