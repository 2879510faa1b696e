"""Template text -> pieces: `"{soft:20} Review: {sentence} Sentiment: {target}"`."""

import dataclasses
import re
from collections.abc import Iterable

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.text.tokens import ROLES, TextTokenizer, looks_special
from jaxprompt.text.values import check_unicode, shown


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
    """`{target}`: what a causal model or a decoder is to write.

    `{target|trim}`, `|ltrim`, `|rtrim`: without white space at its ends, or at one.
    """

    # There is one target, whatever it loses.
    trim: str = dataclasses.field(default="", compare=False)

    def of(self, text: str) -> str:
        return TRIMS[self.trim](text)


@dataclasses.dataclass(frozen=True)
class Special:
    """`{bos}`, `{eos}`, `{cls}`, `{sep}` or a special token's own name: a special token placed by hand."""

    name: str


@dataclasses.dataclass(frozen=True)
class ToDecoder:
    """`{decoder}`: where an encoder-decoder's decoder begins; left out, it begins at the target."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """`{no_special_tokens}`: the tokenizer's own special tokens do not go around the text."""


@dataclasses.dataclass(frozen=True)
class Edge:
    """`{trim}`, `{/trim}`: the text behind, or before, has no white space here, be a field empty or not."""

    start: bool


@dataclasses.dataclass(frozen=True)
class Spaces:
    """`{' '}` behind `{target}`: white space that is written too. Anywhere else it is text."""

    text: str


Piece = Hard | Soft | Field | Mask | Target | Special | ToDecoder | Alone | Edge | Spaces
TRIMS = {"": str, "trim": str.strip, "ltrim": str.lstrip, "rtrim": str.rstrip}


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
# How special tokens are written: `<s>`, `<|im_end|>`, `[SEP]`.
_TOKEN_NAME = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def parse_template(text: str) -> Template:
    """Parses template text.

    `{soft:20}` is 20 soft tokens (anywhere, any number of times), `{name}` the column `name`, `{mask}`, `{target}`,
    `{bos}`, `{eos}`, `{cls}` and `{sep}` are what they say, `{{` and `}}` are literal braces, `{' '}` is white space, and
    between `{trim}` and `{/trim}`, or in `{target|trim}`, there is none at the ends. Which other names are special tokens
    is the tokenizer's to say: see `name_tokens`.

    Raises:
      InputError: an unbalanced brace, a malformed placeholder, half a surrogate pair, or more than one place to
        predict at.
    """
    check_unicode(text, "the template")
    pieces: list[Piece] = []
    hard: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("{", "}"):
            raise InputError(
                f"unbalanced {token!r} at character {match.start()} of template {shown(text)} (write {token * 2!r} for "
                "a literal brace)"
            )
        spaces = re.fullmatch(r"\{'(\s+)'\}", token)
        if spaces and (hard or pieces[-1:] != [Target()]):
            hard.append(spaces[1])
        elif token.startswith("{") and token != "{{":
            if hard:
                pieces.append(Hard("".join(hard)))
                hard = []
            pieces.append(Spaces(spaces[1]) if spaces else _placeholder(token[1:-1], text))
        else:
            hard.append(token[0] if token in ("{{", "}}") else token)
    if hard:
        pieces.append(Hard("".join(hard)))
    for name, one in (("target", Target()), ("mask", Mask()), ("decoder", ToDecoder())):
        if pieces.count(one) > 1:
            raise InputError(f"template has {pieces.count(one)} {{{name}}}; keep one: {shown(text)}")
    if Target() in pieces and Mask() in pieces:
        raise InputError(
            f"template has both {{target}} and {{mask}}; keep {{target}} for a causal model, {{mask}} for a masked "
            f"one: {shown(text)}"
        )
    return Template(text, tuple(pieces))


def name_tokens(template: Template, tokens: TextTokenizer) -> Template:
    """Returns a template whose placeholders that name a special token are that token, and not a column.

    Those are special and other added tokens, and what looks like one and is in the vocabulary, as BERT's `[unused1]`.

    Raises:
      InputError: a placeholder looks like a special token that the tokenizer lacks, or the hard text has the name of
        one, which would be read as ordinary characters.
    """
    telling = [name for name in tokens.special_names if looks_special(name)]
    pieces = []
    for piece in template.pieces:
        if isinstance(piece, Field):
            # An added token may be a plain word, and so may a column.
            named = piece.name in tokens.names and not piece.name.isidentifier()
            looks = _TOKEN_NAME.fullmatch(piece.name)
            if piece.name in tokens.special_names or named or (looks and piece.name in tokens.vocabulary):
                piece = Special(piece.name)
            elif looks:
                raise InputError(
                    f"this tokenizer has no token {shown(piece.name)}, which a placeholder in the template names"
                    f"{did_you_mean(piece.name, sorted(tokens.names))}"
                )
        elif isinstance(piece, Hard):
            found = min((name for name in telling if name in piece.text), key=piece.text.index, default=None)
            if found is not None:
                raise InputError(
                    f"{found!r} in template {shown(template.text)} is a special token of this tokenizer (write "
                    f"{{{found}}})"
                )
        pieces.append(piece)
    return Template(template.text, tuple(pieces))


def _placeholder(name: str, text: str) -> Piece:
    if not name.strip():
        raise InputError(f"empty placeholder {{{name}}} in template {shown(text)} (name a column, as in {{text}})")
    plain = {
        "mask": Mask(),
        "decoder": ToDecoder(),
        "no_special_tokens": Alone(),
        "trim": Edge(True),
        "/trim": Edge(False),
    }
    if name in plain:
        return plain[name]
    if name in ROLES:
        return Special(name)
    if name == "soft" or name.startswith("soft:"):
        length = re.fullmatch(r"soft:([0-9]{1,9})", name)
        if not length or not int(length[1]):
            raise InputError(
                f"{{{name}}} in template {shown(text)}: the length is a number from 1 up, as in {{soft:20}}"
            )
        return Soft(int(length[1]))
    target = re.fullmatch(r"target(?:\|([lr]?trim))?", name)
    return Target(target[1] or "") if target else Field(name)


def check_fields(template: Template, columns: Iterable[str]) -> None:
    """Raises InputError for the first field of the template that is not one of the columns."""
    columns = list(columns)
    for name in template.fields:
        if name not in columns:
            raise InputError(f"unknown field {name!r} in template{did_you_mean(name, columns)}")
