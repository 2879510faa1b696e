"""Tasks by name: a preset gives what a config leaves out. They are YAML files under tasks/."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprompt.backbone.form import form_of
from jaxprompt.config import yaml
from jaxprompt.config.sections import METHOD, PROMPT_LENGTH
from jaxprompt.config.values import brief
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.methods import fills_slots

FOLDER = Path(__file__).parent.parent / "tasks"
# What a preset's templates have where the prompt goes: soft tokens, or nothing for a method that fills no slots.
_PROMPT = "{prompt}"


@functools.cache
def names() -> tuple[str, ...]:
    """The tasks, in alphabetical order."""
    return tuple(sorted(str(path.relative_to(FOLDER).with_suffix("").as_posix()) for path in FOLDER.rglob("*.yaml")))


def about(name: str) -> str:
    """What a task is: the comment that its file begins with."""
    text = _file(name).read_text(encoding="utf-8")
    return " ".join(line.removeprefix("# ") for line in re.match(r"(#.*\n)+", text)[0].splitlines())


def read(name: str) -> dict[str, Any]:
    """A task's file: `kind`, keys of a config, and under `forms` those of each kind of backbone."""
    return yaml.read_file(_file(name))


def _file(name: str) -> Path:
    if name not in names():
        raise InputError(f"unknown task {brief(name)}{did_you_mean(name, names())}; `jaxprompt tasks` lists them")
    return FOLDER / f"{name}.yaml"


def config_of(name: str, form: str, slots: bool = True, prompt_length: int = PROMPT_LENGTH) -> dict[str, Any]:
    """The keys of a config that a task gives for one kind of backbone.

    Args:
      slots: whether the method fills soft slots; else the template has none.

    Raises:
      InputError: there is no such task, or it has no such form.
    """
    preset = read(name)
    preset.pop("kind")
    forms = preset.pop("forms")
    if form not in forms:
        raise InputError(f"task {name!r} has no form {form!r}, of such models (it has: {', '.join(forms)})")
    return _filled(_over(preset, forms[form]), f"{{soft:{prompt_length}}}" if slots else "")


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config's plain values, and below them what its task gives.

    A config with rows of its own has none of the task's, nor what the task does to their columns; one with another
    objective has none of its figures; and one with a template or chat keeps it, so that a run's own config is complete.

    Raises:
      InputError: as `config_of`; or what kind the backbone is cannot be told.
    """
    name = tree.get("task")
    if not isinstance(name, str):
        return dict(tree)  # there is none, or none that validation lets through
    if tree.get("template") is not None or tree.get("chat") is not None:
        given = read(name)
        given = {key: value for key, value in given.items() if key not in ("kind", "forms", "objective", "evaluation")}
    else:
        form = tree.get("form") or form_of(tree.get("model"))
        method = tree.get("method", {})
        slots = fills_slots({"name": METHOD.default, **method} if isinstance(method, Mapping) else method)
        given = config_of(name, form, slots, tree.get("prompt_length", PROMPT_LENGTH))
    data, objective = tree.get("data"), tree.get("objective")
    if isinstance(data, Mapping) and any(data.get(key) is not None for key in ("train", "validation")):
        given["data"] = {key: value for key, value in given.get("data", {}).items() if key in ("label", "target")}
    kind = given.get("objective", {}).get("type")
    if kind is not None and isinstance(objective, Mapping) and objective.get("type", kind) != kind:
        given.pop("evaluation", None)
    return _over(given, tree)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one, in which `above` has the last word; its objective of another type replaces the one below."""
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        if key != "labels" and isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _over(under, value) if value.get("type", under.get("type")) == under.get("type") else value
        found[key] = value
    return found


def _filled(value: Any, prompt: str) -> Any:
    """The prompt put into all texts of a tree."""
    if isinstance(value, str):
        return value.replace(_PROMPT, prompt)
    if isinstance(value, Mapping):
        return {key: _filled(item, prompt) for key, item in value.items()}
    return [_filled(item, prompt) for item in value] if isinstance(value, list) else value
