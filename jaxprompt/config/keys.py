"""A config from a YAML file and overrides: keys, help, and errors in one line."""

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from jaxprompt.config.sections import Config
from jaxprompt.errors import InputError, did_you_mean


def load_config(source: str | Path | Mapping | Config, overrides: Mapping[str, Any] | list[str] = ()) -> Config:
    """Reads and validates a config.

    Args:
      source: a YAML file, a mapping, or a Config.
      overrides: `["train.steps=10", ...]`, or a mapping of dotted keys or of nested sections.

    Raises:
      InputError: an unknown key, a wrong type or an impossible value, naming the key and the nearest valid one.
    """
    if isinstance(source, Config):
        tree = source.model_dump(mode="json", exclude_unset=True)
    elif isinstance(source, Mapping):
        tree = _copy(source)
    else:
        tree = _read_yaml(Path(source))
        if tree.get("run_dir") is None:
            tree["run_dir"] = str(Path("runs") / Path(source).stem)
    if isinstance(overrides, Mapping):
        pairs = [(key, value) for name, item in overrides.items() for key, value in _flatten(name, item)]
    else:
        pairs = [_parse_override(item) for item in overrides]
    for key, value in pairs:
        _assign(tree, key, value)
    _check_keys(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_one_line(error)) from None


def keys(section: type[BaseModel] = Config, before: str = "") -> dict[str, Any]:
    """All dotted keys of a section, in order, with their pydantic fields."""
    found = {}
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is not None:
            found.update(keys(inner, f"{before}{name}."))
        else:
            found[before + name] = field
    return found


def flat(config: Config) -> dict[str, Any]:
    """All dotted keys of a config with their values."""
    found = {}
    for key in keys():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value
    return found


def help_text() -> str:
    """One line per key: its type, default and meaning."""
    lines = []
    for key, field in keys().items():
        kind = _type_name(field.annotation)
        default = "required" if field.is_required() else f"default {yaml_value(field.default)}"
        lines.append(f"  {key} ({kind}, {default})\n      {field.description}")
    return "\n".join(lines)


def yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).strip().removesuffix("...").strip()


def dump(tree: Mapping) -> str:
    """Plain values as YAML, in their order."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _section_of(field) -> type[BaseModel] | None:
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def _type_name(annotation) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    if origin is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(a) for a in typing.get_args(annotation) if a is not type(None)))
    if origin is not None:
        return {list: "list", dict: "mapping"}.get(origin, str(annotation))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true|false"}.get(annotation.__name__, "")


def _read_yaml(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"config {str(path)!r} does not exist{did_you_mean(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        place = f" line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise InputError(f"config {str(path)!r}{place} is not YAML: {problem}; quote texts that hold {{ or :") from None
    if not isinstance(tree, dict):
        raise InputError(f"config {str(path)!r} is empty or not a mapping: it needs at least model and template")
    return tree


def _parse_override(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"override {item!r} is not of the form key=value")
    field = keys().get(key)
    if field is not None and str in (field.annotation, *typing.get_args(field.annotation)):
        # A text stays as it is typed: `{soft:20} {text}` is no YAML mapping. Lists of rows are for the Python API.
        return key, None if value == "null" else value
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"override {item!r}: the value is not YAML") from None


def _flatten(name: str, item) -> list[tuple[str, Any]]:
    if isinstance(item, BaseModel):
        item = item.model_dump(exclude_unset=True)
    field = Config.model_fields.get(name.split(".")[0])
    is_section = "." not in name and field is not None and _section_of(field) is not None
    if is_section and isinstance(item, Mapping):
        # `init` is the one section inside a section.
        return [
            pair
            for key, value in item.items()
            for pair in (
                [(f"{name}.init.{k}", v) for k, v in value.items()]
                if (name, key) == ("method", "init") and isinstance(value, Mapping)
                else [(f"{name}.{key}", value)]
            )
        ]
    return [(name, item)]


def _assign(tree: dict, key: str, value) -> None:
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(tree.setdefault(name, {}), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _copy(tree):
    if isinstance(tree, BaseModel):
        tree = tree.model_dump(exclude_unset=True)
    return {key: _copy(value) if isinstance(value, Mapping | BaseModel) else value for key, value in tree.items()}


def _check_keys(tree: dict, section: type[BaseModel] = Config, before: str = "") -> None:
    for name, value in tree.items():
        key = f"{before}{name}"
        field = section.model_fields.get(name)
        if field is None:
            same_leaf = [k for k in keys() if k.split(".")[-1] == str(name)]
            hint = f" (did you mean {same_leaf[0]!r}?)" if same_leaf else did_you_mean(key, list(keys()))
            raise InputError(f"unknown config key {key!r}{hint}")
        inner = _section_of(field)
        if inner is not None:
            if not isinstance(value, Mapping):
                options = ", ".join(f"{key}.{n}" for n in inner.model_fields)
                raise InputError(f"config key {key!r} is a section, not {value!r}: set {options}")
            _check_keys(value, inner, key + ".")


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"]]
    known = keys()
    key = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), ".".join(parts))
    if first["type"] == "missing":
        return f"config lacks {key!r}: {known[key].description}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "literal_error":
        options = typing.get_args(known[key].annotation)
        options = [o for option in options for o in (typing.get_args(option) or (option,)) if o is not type(None)]
        return f"config key {key!r} has the value {first['input']!r}{did_you_mean(first['input'], options)}"
    value = first["input"]
    shown = "" if isinstance(value, BaseModel | dict) else f" has the value {value!r}"
    return f"config key {key!r}{shown}: {message}"
