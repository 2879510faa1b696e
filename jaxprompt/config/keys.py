"""A config from a YAML file and overrides: keys, help, and errors in one line."""

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from jaxprompt.config import yaml
from jaxprompt.config.sections import TASK_KEYS, Config
from jaxprompt.config.tasks import completed
from jaxprompt.config.values import brief, plain
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.options import Options


@dataclass(frozen=True)
class Key:
    """A dotted key of a config.

    Attributes:
      fields: its pydantic field in each choice that has it; of a key outside such sections, under None.
    """

    fields: dict[str | None, FieldInfo]

    @property
    def field(self) -> FieldInfo:
        """Any of them: a key has one type and one meaning."""
        return next(iter(self.fields.values()))

    @property
    def annotation(self) -> Any:
        """The type, of a key that chooses all choices together."""
        kinds = [field.annotation for field in self.fields.values()]
        if len(kinds) > 1 and all(typing.get_origin(kind) is Literal for kind in kinds):
            return Literal[tuple(dict.fromkeys(value for kind in kinds for value in typing.get_args(kind)))]
        return kinds[0]


def load_config(source: str | Path | Mapping | Config, overrides: Mapping[str, Any] | list[str] = ()) -> Config:
    """Reads and validates a config.

    Args:
      source: a YAML file, a mapping, or a Config.
      overrides: `["train.steps=10", ...]`, or a mapping of dotted keys or of nested sections. An override that makes
        another choice, such as `method.name=none`, drops the options that the source has for the one before.

    Raises:
      InputError: an unknown key, a wrong type or an impossible value, naming the key and the nearest valid one.
    """
    if isinstance(source, str | PurePath):
        tree = yaml.read_file(Path(source))
        if tree.get("run_dir") is None:
            tree["run_dir"] = str(Path("runs") / Path(source).stem)
    elif isinstance(source, Mapping | Config):
        tree = source
    else:
        raise InputError(f"a config of type {type(source).__name__!r}: give a YAML file, a mapping or a Config")
    tree = plain(tree)
    if isinstance(overrides, Mapping):
        pairs = [pair for name, item in plain(overrides).items() for pair in _flatten(str(name), item)]
    elif isinstance(overrides, Iterable) and not isinstance(overrides, str | bytes):
        pairs = [(name, plain(value, name)) for name, value in map(_parse_override, overrides)]
    else:
        raise InputError(f"overrides of type {type(overrides).__name__!r}: give a list of key=value, or a mapping")
    _drop_unchosen(tree, dict(pairs))
    for key, value in pairs:
        _assign(tree, key, value)
    tree = completed(tree)
    if isinstance(tree.get("population"), Mapping):
        tree["population"] = dict(_dotted(tree["population"]))
    _check_keys(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_one_line(error)) from None
    if config.tasks is not None:
        if config.population:
            raise InputError("population is of one task, and there are tasks: leave one of them out")
        parts = _task_configs(tree)
        own = {task: part.model_dump(include=set(TASK_KEYS)) for task, part in parts.items()}
        return config.model_copy(update={"tasks": own})
    if config.template is None and config.chat is None:
        raise InputError(f"config lacks 'template': {Config.model_fields['template'].description} (or chat, or task)")
    if config.template is not None and config.chat is not None:
        raise InputError("config has both template and chat: keep one, or set the other to null")
    return config


def task_configs(config: Config) -> dict[str, Config]:
    """Of a config of several tasks, that of each, as it would be alone."""
    return _task_configs(plain(config))


def _task_configs(tree: Mapping) -> dict[str, Config]:
    if not isinstance(tree["tasks"], Mapping) or len(tree["tasks"]) < 2:
        raise InputError("tasks has to name two or more: for one, write its keys where tasks stands")
    if (tree.get("train") or {}).get("metric") is not None:
        raise InputError(
            "train.metric is of one task: of several, each is chosen by the first of its evaluation.metrics"
        )
    found = {}
    for task, own in tree["tasks"].items():
        if not re.fullmatch(r"\w[\w.-]*", task):
            raise InputError(
                f"tasks has the name {brief(task)}, which is that of a folder: take letters, digits, - and _"
            )
        if not isinstance(own, Mapping):
            raise InputError(f"tasks.{task} is a section, not {brief(own)}: set {', '.join(TASK_KEYS)}")
        for key in own:
            if key not in TASK_KEYS:
                raise InputError(f"tasks.{task} has {brief(key)}{did_you_mean(key, TASK_KEYS)}")
        merged = _of_task(tree, own) | {"run_dir": str(Path(tree.get("run_dir") or "runs", "tasks", task))}
        try:
            found[task] = load_config(merged)
        except InputError as error:
            raise InputError(f"tasks.{task}: {error}") from None
        for key in ("ahead", "cache"):
            if getattr(found[task].data, key):
                raise InputError(f"tasks.{task}: data.{key} is not for several tasks: leave it out")
    return found


def _of_task(tree: Mapping, own: Mapping) -> dict:
    """The keys of one task over those that all share."""
    merged = {key: value for key, value in tree.items() if key not in ("tasks", "run_dir")}
    if isinstance(merged.get("data"), Mapping):
        # How much of each task is drawn is of all tasks together.
        merged["data"] = {k: v for k, v in merged["data"].items() if k not in ("weights", "temperature")}
    if any(own.get(key) is not None for key in ("task", "template", "chat")):
        for key in ("task", "form", "template", "chat"):
            merged.pop(key, None)
    for key, value in own.items():
        choice, under = Config.choices.get(key), merged.get(key)
        other = choice is not None and choice.name_of(value) != choice.name_of(under or {})
        both = isinstance(value, Mapping) and isinstance(under, Mapping) and not other
        merged[key] = {**under, **value} if both else value
    # Computed by itself, text ahead of the prompts would be of one task.
    merged["data"] = {**merged.get("data", {}), "ahead": merged.get("data", {}).get("ahead") or False}
    return merged


def keys() -> dict[str, Key]:
    """All dotted keys, in order."""
    found: dict[str, dict[str | None, FieldInfo]] = {}

    def walk(section: type[Options], before: str, choice: str | None) -> None:
        for name, field in section.model_fields.items():
            inner = _section_of(field)
            if before == "" and name in Config.choices:
                options = Config.choices[name]
                # The key that chooses comes first.
                found[f"{name}.{options.key}"] = {}
                for chosen, option in options.options.items():
                    walk(option, f"{name}.", chosen)
            elif inner is not None:
                walk(inner, f"{before}{name}.", choice)
            else:
                found.setdefault(before + name, {})[choice] = field

    walk(Config, "", None)
    return {key: Key(fields) for key, fields in found.items()}


def flat(config: Config) -> dict[str, Any]:
    """All dotted keys that a config has, with their values, of which lists of sections are plain too."""
    found, tree = {}, config.model_dump()
    for key in keys():
        value: Any = tree
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT:
            found[key] = value
    return found


_ABSENT = object()


def help_text() -> str:
    """One line per key: its type, default and meaning."""
    lines = []
    for name, key in keys().items():
        kind = _type_name(key.annotation)
        section, _, last = name.partition(".")
        choice = Config.choices.get(section)
        if choice is not None and last == choice.key:
            lines.append(f"  {name} ({kind}, default {choice.default})")
            lines += [f"      {chosen}: {field.description}" for chosen, field in key.fields.items()]
            continue
        shown = {chosen: _default(field) for chosen, field in key.fields.items()}
        default = next(iter(shown.values()))
        default += "".join(f", {c} {v}" for c, v in shown.items() if v != next(iter(shown.values())))
        only = "" if choice is None or len(shown) == len(choice.options) else f"{', '.join(shown)}: "
        lines.append(f"  {name} ({kind}, {default})\n      {only}{key.field.description}")
        others = {field.description: chosen for chosen, field in key.fields.items()}
        lines += [f"      {c}: {text}" for text, c in others.items() if text != key.field.description]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"default {yaml_value(field.default)}"


def yaml_value(value) -> str:
    return yaml.write_text(value, flow=True).strip().removesuffix("...").strip()


def dump(tree: Mapping) -> str:
    """Plain values as YAML, in their order."""
    return yaml.write_text(tree)


def _section_of(field: FieldInfo) -> type[Options] | None:
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


def _takes_text(annotation: Any) -> bool:
    return "text" in _type_name(annotation).split(" or ")


def _parse_override(item: str) -> tuple[str, Any]:
    if not isinstance(item, str):
        raise InputError(f"an override of type {type(item).__name__!r}: write it as key=value")
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise InputError(f"override {brief(item)} is not of the form key=value")
    key = keys().get(name)
    if key is not None and _takes_text(key.annotation):
        # A text stays as it is typed: `{soft:20} {text}` is no YAML mapping. Lists of rows are for the Python API.
        return name, None if value == "null" else value
    return name, yaml.read_text(value, f"override {brief(item)}")


def _flatten(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a section given as a mapping or as options; any other value is that of its key."""
    if isinstance(item, Mapping) and item and any(key.startswith(f"{name}.") for key in keys()):
        for inner, value in item.items():
            yield from _flatten(f"{name}.{inner}", value)
    else:
        yield name, item


def _dotted(tree: Mapping, before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and values, of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _drop_unchosen(tree: dict, overrides: Mapping[str, Any]) -> None:
    """Takes options out of the source that an override's other choice does not have."""
    for section, choice in Config.choices.items():
        name = overrides.get(f"{section}.{choice.key}")
        values = tree.get(section)
        if (
            isinstance(name, str)
            and name in choice.options
            and isinstance(values, dict)
            and choice.name_of(values) != name
        ):
            for key in values.keys() - choice.options[name].model_fields.keys():
                del values[key]


def _assign(tree: dict, key: str, value) -> None:
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(tree.setdefault(name, {}), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _check_keys(tree: Mapping, section: type[Options] = Config, before: str = "", chosen: str | None = None) -> None:
    for name, value in tree.items():
        key = f"{before}{name}"
        field = section.model_fields.get(name)
        if field is None:
            raise InputError(_unknown(key, chosen))
        choice = Config.choices.get(name) if not before else None
        inner = _section_of(field)
        if choice is None and inner is None:
            if value == "" and _takes_text(field.annotation):
                raise InputError(f"config key {key!r} is an empty text: fill it in, or leave the key out")
            continue
        if not isinstance(value, Mapping):
            options = ", ".join(known for known in keys() if known.startswith(f"{key}."))
            raise InputError(f"config key {key!r} is a section, not {brief(value)}: set {options}")
        if choice is not None:
            picked = choice.name_of(value)
            inner = choice.options.get(picked) if isinstance(picked, str) else None
            if inner is None:
                where = f"config key {f'{key}.{choice.key}'!r}"
                raise InputError(f"{where} has the value {brief(picked)}{did_you_mean(picked, choice.options)}")
            _check_keys(value, inner, f"{key}.", picked)
        else:
            _check_keys(value, inner, f"{key}.", chosen)


def _unknown(name: str, chosen: str | None) -> str:
    """What to say of a key that the config, or what it has chosen, does not know."""
    owners = [
        owner for known, key in keys().items() if known == name or known.startswith(f"{name}.") for owner in key.fields
    ]
    owners = list(dict.fromkeys(owners))
    if owners and chosen is not None:
        section = name.partition(".")[0]
        choosing = f"{section}.{Config.choices[section].key}"
        return (
            f"config key {brief(name)} goes with {choosing} {' or '.join(owners)}, not with {chosen}: remove it, or set "
            f"{choosing}={owners[0]}"
        )
    same_leaf = [known for known in keys() if known.split(".")[-1] == name.split(".")[-1]]
    hint = f" (did you mean {same_leaf[0]!r}?)" if same_leaf else did_you_mean(name, list(keys()))
    return f"unknown config key {brief(name)}{hint}"


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"]]
    if len(parts) > 1 and parts[0] in Config.choices:
        del parts[1]  # the choice
    known = keys()
    key = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), ".".join(parts))
    if first["type"] == "missing":
        return f"config lacks {'.'.join(parts)!r}: {known[key].field.description}"
    if first["type"] == "extra_forbidden":  # in an item of a list; other keys were looked at before
        return f"unknown config key {brief('.'.join(parts))}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = first["input"]
    if first["type"] == "literal_error":
        options = typing.get_args(known[key].annotation)
        options = [o for option in options for o in (typing.get_args(option) or (option,)) if o is not type(None)]
        return f"config key {key!r} has the value {brief(value)}{did_you_mean(value, options)}"
    if key in known and typing.get_origin(known[key].annotation) is dict:
        key = ".".join(parts)
    # A section's own check has all of the section as its input.
    shown = "" if key not in known and isinstance(value, BaseModel | dict) else f" has the value {brief(value)}"
    return f"config key {brief(key)}{shown}: {message}{_remedy(first['type'], value)}"


def _remedy(problem: str, value: Any) -> str:
    """What to write in place of a value of another type, where the message does not say it."""
    if problem == "int_type" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if problem in ("int_type", "float_type") and isinstance(value, str):
        return "; write a number, without quotes"
    if problem == "bool_type":
        return "; write true or false"
    return "; put it in quotes" if problem == "string_type" and isinstance(value, bool | int | float) else ""
