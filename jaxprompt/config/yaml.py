"""YAML as version 1.2's core schema reads it, in bounds: what configs and overrides are read with."""

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from jaxprompt.errors import InputError, did_you_mean

# A config is a page of text. What claims to be one and is larger, or nested deeper, was made to do harm.
MAX_BYTES = 500_000
MAX_VALUES = 10_000
MAX_DEPTH = 50
MAX_DIGITS = 40


def read_text(text: str, name: str = "the text") -> Any:
    """Reads one YAML value; raises InputError, in one line that begins with `name`, for all that can be wrong."""
    # PyYAML ends a line here as 1.1 does, and drops the spaces around; 1.2 does not.
    odd = re.search("[\x85\u2028\u2029]", text)
    if odd:
        raise InputError(
            f"{name}{_place(text, odd.start())} holds U+{ord(odd[0]):04X}, which readers of YAML disagree about: write "
            f'"\\u{ord(odd[0]):04x}", in double quotes'
        )
    try:
        loader = _Reader(text)
    except ReaderError as error:
        raise InputError(
            f"{name}{_place(text, error.position)} is not YAML: it holds U+{error.character:04X}: remove it"
            + (", or save the file as UTF-8" if error.character == 0 else "")
        ) from None
    try:
        return loader.get_single_data()
    except _Refused as error:
        raise InputError(f"{name}{_place(text, error.problem_mark.index)}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        problem = (error.problem or error.context).removeprefix("but ")
        remedy = next((said for part, said in _REMEDIES.items() if part in problem), "quote texts that hold { or :")
        place = _place(text, (error.problem_mark or error.context_mark).index)
        raise InputError(f"{name}{place} is not YAML: {problem}; {remedy}") from None
    except (ValueError, OverflowError):
        place = _place(text, loader.get_mark().index)
        raise InputError(f"{name}{place} is not YAML: an escape beyond Unicode; remove it") from None
    finally:
        loader.dispose()


def read_file(path: Path) -> dict:
    """Reads a config file; raises InputError, in one line, for all that can be wrong with it."""
    name = f"config {str(path)!r:.300}"
    try:
        is_file = path.is_file() or not path.exists()  # a pipe would be waited for, without end
        data = _start_of(path) if is_file else b""
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"{name} does not exist{did_you_mean(path.name, near)}") from None
    except (OSError, ValueError) as error:  # a ValueError: a NUL, or half a surrogate pair, in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read ({reason}): name a YAML file") from None
    if not is_file:
        raise InputError(f"{name} cannot be read (it is no file): name a YAML file")
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{name} has {path.stat().st_size} bytes, a config {MAX_BYTES} at most: put rows into a file of their own"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f" line {data.count(10, 0, error.start) + 1}"
        raise InputError(
            f"{name}{place} cannot be read (byte 0x{data[error.start]:02x} is not UTF-8): save it as UTF-8"
        ) from None
    tree = read_text(text, name)
    if not isinstance(tree, dict):
        raise InputError(f"{name} is empty or not a mapping: it needs at least model and template")
    return tree


def write_text(tree: Any, flow: bool | None = False) -> str:
    """Returns plain values as YAML that `read_text` reads back as they were; mappings keep their order."""
    return yaml.dump(
        tree, Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=float("inf")
    )


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _place(text: str, position: int) -> str:
    """The line, of a text of several."""
    return f" line {text.count(chr(10), 0, position) + 1}" if "\n" in text else ""


# What to do about what PyYAML says, by a part of it.
_REMEDIES = {
    "'\\t'": "write spaces, not tabs",
    "another document": "keep one",
    "node, but found": "remove the tag",
    "second occurrence": "give each anchor (&name) a name of its own, or remove it",
    "escape": "double each \\, or write the text in single quotes",
}


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, and has no place in a config."""

    def __init__(self, at: yaml.Node | yaml.Event, problem: str):
        super().__init__(problem=problem, problem_mark=at.start_mark)


class _Reader(yaml.SafeLoader):
    """Of plain scalars only true and false are booleans, and numbers are as in JSON, or 0o and 0x."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._values = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self._depth += 1
        self._values += 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(event, "an alias (*name), which configs do not need: write the value out")
        if event.tag is not None and event.tag not in self.yaml_constructors:
            raise _Refused(event, f"the tag {event.tag!r:.80}, which configs do not need: remove it")
        if self._depth > MAX_DEPTH:
            raise _Refused(event, f"nested deeper than {MAX_DEPTH} levels: write it flatter")
        if self._values > MAX_VALUES:
            raise _Refused(event, f"more than {MAX_VALUES} keys and values: put rows into a file of their own")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        if not isinstance(node, yaml.MappingNode):
            raise _Refused(node, "no mapping where its tag says one: remove the tag")
        found = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(key_node, "a key that is no plain text: write a text or a number")
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise _Refused(key_node, f"the key {key!r:.80} is there twice: remove one")
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        try:
            # JSON writes what is beyond 16 bits as a pair of escapes.
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _Refused(node, f"{value!r:.80} holds half a surrogate pair: remove it") from None
        if "\0" in value:
            raise _Refused(node, f"{value!r:.80} holds a NUL: remove it")
        return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits: write a smaller one, or quote it if it is a text")
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(text: str) -> float:
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(value) and ".inf" not in text.lower():
        raise ValueError(f"the number {text:.80} is beyond what numbers hold: write a smaller one")
    return value


# https://yaml.org/spec/1.2.2/#103-core-schema, in the order in which they are tried.
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _integer),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        _float,
    ),
}
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = [(_TAG + name, re.compile(rf"(?:{pattern})\Z")) for name, (pattern, _) in _SCALARS.items()]


def _scalar(name: str, pattern: str, read) -> Any:
    def construct(loader: _Reader, node: yaml.Node):
        text = loader.construct_scalar(node)
        if not re.fullmatch(pattern, text):
            raise _Refused(node, f"{text!r:.80} is no !!{name}: remove the tag")
        try:
            return read(text)
        except ValueError as error:
            raise _Refused(node, str(error)) from None

    return construct


_Reader.yaml_implicit_resolvers = {None: _RESOLVERS}
_Reader.yaml_constructors = {
    **{_TAG + name: _scalar(name, *rest) for name, rest in _SCALARS.items()},
    _TAG + "str": _Reader.construct_scalar,
    _TAG + "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    _TAG + "map": _Reader.construct_mapping,
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


def _represent_text(writer: _Writer, value: str):
    # Some readers take these for the end of a line.
    odd = any(char in value for char in "\x85\u2028\u2029\ufeff")
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style='"' if odd else None)


_Writer.add_representer(str, _represent_text)
