"""Template text -> pieces: `"{soft:20} Review: {sentence} Sentiment: {target}"`."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal, get_args

from jaxprompt.errors import InputError, did_you_mean

SpecialName = Literal["bos", "eos", "cls", "sep"]


@dataclasses.dataclass(frozen=True)
class Hard:
    """Literal text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Soft:
    """`{soft:n}`: n rows of the soft prompt, numbered on from those of the slots before it."""

    length: int


@dataclasses.dataclass(frozen=True)
class Field:
    """`{name}`: the text of a column."""

    name: str


@dataclasses.dataclass(frozen=True)
class Mask:
    """`{mask}`: where a masked model predicts the label word."""


@dataclasses.dataclass(frozen=True)
class Target:
    """`{target}`: what a causal model or a decoder is to write."""


@dataclasses.dataclass(frozen=True)
class Special:
    """`{bos}`, `{eos}`, `{cls}` or `{sep}`: a special token placed by hand."""

    name: SpecialName


@dataclasses.dataclass(frozen=True)
class ToDecoder:
    """`{decoder}`: where an encoder-decoder's decoder begins; left out, it begins at the target."""


Piece = Hard | Soft | Field | Mask | Target | Special | ToDecoder


@dataclasses.dataclass(frozen=True)
class Template:
    """The layout of one example. `text` is what it was parsed from; neighbouring pieces are never both Hard."""

    text: str
    pieces: tuple[Piece, ...]

    @property
    def soft_length(self) -> int:
        """Rows of the soft prompt."""
        return sum(piece.length for piece in self.pieces if isinstance(piece, Soft))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the columns, each once, in order of appearance."""
        return tuple(dict.fromkeys(piece.name for piece in self.pieces if isinstance(piece, Field)))

    @property
    def has_mask(self) -> bool:
        return Mask() in self.pieces

    @property
    def has_target(self) -> bool:
        return Target() in self.pieces


# A doubled brace comes first: `{{` is literal even where a placeholder could start.
_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")


def parse_template(text: str) -> Template:
    """Parses template text.

    `{soft:20}` is 20 soft tokens (anywhere, any number of times), `{name}` the column `name`, `{mask}`, `{target}`,
    `{bos}`, `{eos}`, `{cls}` and `{sep}` are what they say, `{{` and `}}` are literal braces.

    Raises:
      InputError: an unbalanced brace, a malformed placeholder, or more than one place to predict at.
    """
    pieces: list[Piece] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("{", "}"):
            raise InputError(
                f"unbalanced {token!r} at character {match.start()} of template {text!r} (write {token * 2!r} for a "
                "literal brace)"
            )
        if token.startswith("{") and token != "{{":
            pieces.append(_placeholder(token[1:-1], text))
            continue
        token = token[0] if token in ("{{", "}}") else token
        if pieces and isinstance(pieces[-1], Hard):
            pieces[-1] = Hard(pieces[-1].text + token)
        else:
            pieces.append(Hard(token))
    for name, one in (("target", Target()), ("mask", Mask()), ("decoder", ToDecoder())):
        if pieces.count(one) > 1:
            raise InputError(f"template has {pieces.count(one)} {{{name}}}; keep one: {text!r}")
    if Target() in pieces and Mask() in pieces:
        raise InputError(
            f"template has both {{target}} and {{mask}}; keep {{target}} for a causal model, {{mask}} for a masked "
            f"one: {text!r}"
        )
    return Template(text, tuple(pieces))


def _placeholder(name: str, text: str) -> Piece:
    if not name.strip():
        raise InputError(f"empty placeholder {{{name}}} in template {text!r} (name a column, as in {{text}})")
    if name == "mask":
        return Mask()
    if name == "target":
        return Target()
    if name == "decoder":
        return ToDecoder()
    if name in get_args(SpecialName):
        return Special(name)
    if name == "soft" or name.startswith("soft:"):
        length = re.fullmatch(r"soft:([0-9]{1,9})", name)
        if not length or not int(length[1]):
            raise InputError(f"{{{name}}} in template {text!r}: the length is a number from 1 up, as in {{soft:20}}")
        return Soft(int(length[1]))
    return Field(name)


def check_fields(template: Template, columns: Iterable[str]) -> None:
    """Raises InputError for the first field of the template that is not one of the columns."""
    columns = list(columns)
    for name in template.fields:
        if name not in columns:
            raise InputError(f"unknown field {name!r} in template{did_you_mean(name, columns)}")
