"""YAML as version 1.2's core schema reads it, in bounds: what configs and overrides are read with."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from jaxprompt.errors import InputError, did_you_mean

# A config is a page of text. What claims to be one and is larger, or nested deeper, was made to do harm.
MAX_BYTES = 10_000_000
MAX_DEPTH = 50
MAX_DIGITS = 40


class _Reader(yaml.SafeLoader):
    """Of plain scalars only true and false are booleans, and numbers are as in JSON, or 0o and 0x."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="an alias (*name), which configs do not need: write the value out",
                problem_mark=self.peek_event().start_mark,
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=self.peek_event().start_mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node, deep=False):
        found = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no plain text", problem_mark=key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is there twice: remove one", problem_mark=key_node.start_mark
                )
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise yaml.MarkedYAMLError(
                problem="a text with a NUL or half a surrogate pair: remove it", problem_mark=node.start_mark
            )
        return value


def _integer(loader: _Reader, node: yaml.ScalarNode) -> int:
    text = node.value
    if len(text) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(text)} digits", problem_mark=node.start_mark)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(loader: _Reader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    if text.endswith(".nan"):
        return math.nan
    return float(text.replace(".inf", "inf"))


def _mapping(loader: _Reader, node: yaml.MappingNode) -> dict:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.MarkedYAMLError(problem="no mapping where one is said to be", problem_mark=node.start_mark)
    return loader.construct_mapping(node)


def _refused(loader: _Reader, node: yaml.Node):
    raise yaml.MarkedYAMLError(
        problem=f"the tag {node.tag!r}, which configs do not need: remove it", problem_mark=node.start_mark
    )


_BOOLEAN = r"^(?:true|True|TRUE|false|False|FALSE)$"
_NULL = r"^(?:~|null|Null|NULL|)$"
_INTEGER = r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"
_FLOAT = r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
# https://yaml.org/spec/1.2.2/#103-core-schema, in the order in which they are tried.
_RESOLVERS = [
    ("tag:yaml.org,2002:bool", re.compile(_BOOLEAN)),
    ("tag:yaml.org,2002:null", re.compile(_NULL)),
    ("tag:yaml.org,2002:int", re.compile(_INTEGER)),
    ("tag:yaml.org,2002:float", re.compile(_FLOAT)),
]
_Reader.yaml_implicit_resolvers = {None: _RESOLVERS}
_Reader.yaml_constructors = {
    "tag:yaml.org,2002:bool": yaml.SafeLoader.construct_yaml_bool,
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:int": _integer,
    "tag:yaml.org,2002:float": _float,
    "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
    "tag:yaml.org,2002:seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    "tag:yaml.org,2002:map": _mapping,
    None: _refused,
}


class _Writer(yaml.SafeDumper):
    """Quotes what a reader of YAML 1.1 or of 1.2 would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Without a resolver of ours the writer would leave `1e5` bare, which 1.2 reads as a number.
_Writer.yaml_implicit_resolvers = {
    first: [*resolvers, *_RESOLVERS] for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _first in "-+.0123456789tTfFnN~":
    _Writer.yaml_implicit_resolvers.setdefault(_first, list(_RESOLVERS))


def _represent_float(writer: _Writer, value: float):
    text = {math.inf: ".inf", -math.inf: "-.inf"}.get(value) or (".nan" if math.isnan(value) else repr(value))
    return writer.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_text(writer: _Writer, value: str):
    # Some readers take these for the end of a line.
    odd = any(char in value for char in "\x85\u2028\u2029\ufeff")
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style='"' if odd else None)


_Writer.add_representer(float, _represent_float)
_Writer.add_representer(str, _represent_text)


def read_text(text: str) -> Any:
    """Reads one YAML value. Raises yaml.YAMLError, with a place where there is one."""
    loader = _Reader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_file(path: Path) -> dict:
    """Reads a config file; raises InputError, in one line, for all that can be wrong with it."""
    name = f"config {str(path)!r:.300}"
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InputError(f"{name} has {path.stat().st_size} bytes: a config has {MAX_BYTES} at most")
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is no file: name a YAML file")
        tree = read_text(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"{name} does not exist{did_you_mean(path.name, near)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name} cannot be read: {error} (save it as UTF-8)") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "malformed"
        raise InputError(f"{name}{place} is not YAML: {problem}; quote texts that hold {{ or :") from None
    except (OSError, ValueError) as error:  # also of a NUL in the path, or a loop of links
        raise InputError(f"{name} cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{name} is empty or not a mapping: it needs at least model and template")
    return tree


def write_text(tree: Any, flow: bool | None = False) -> str:
    """Returns plain values as YAML that `read_text` reads back as they were; mappings keep their order."""
    return yaml.dump(
        tree, Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=float("inf")
    )
