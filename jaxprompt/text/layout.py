"""A template made ready for one tokenizer: which ids are fixed, what text is tokenised together."""

import dataclasses
from collections.abc import Sequence

from jaxprompt.errors import InputError
from jaxprompt.text.templates import Field, Hard, Mask, Soft, Special, Target, Template, ToDecoder
from jaxprompt.text.tokens import TextTokenizer

# Stands in a trunk for the mask tokens, of which a label word needs one per token.
MASK = -1


@dataclasses.dataclass(frozen=True)
class Text:
    """Text tokenised as one string.

    Attributes:
      pieces: hard text, or None for the next field.
      anew: whether it is tokenised as text by itself; else as a continuation of what stands before it.
      rstrip: whether the special token behind it swallows the white space before itself.
    """

    pieces: tuple[str | None, ...]
    anew: bool
    rstrip: bool = False

    def encode(self, tokens: TextTokenizer, text: str) -> list[int]:
        if self.rstrip:
            text = text.rstrip()
        return tokens.encode(text) if self.anew else tokens.continuation(text)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A template's parts in order, up to the target.

    Attributes:
      parts: fixed ids (`MASK` among them), or text.
      fields: the column of each field, in order, repeats included.
      target_space: " " if a target or label word has its tokens behind a space, else "".
      target_anew: whether a target or label word is tokenised as text by itself; else as a continuation.
      target_tail: the ids scored behind the target or label word.
      type_after: the id behind whose first occurrence the token type is 1, or None.
    """

    parts: tuple[tuple[int, ...] | Text, ...]
    fields: tuple[str, ...]
    target_space: str
    target_anew: bool
    target_tail: tuple[int, ...]
    type_after: int | None

    def target_ids(self, tokens: TextTokenizer, text: str) -> list[int]:
        """Returns the ids of a target or label word, without the tail."""
        return tokens.encode(text) if self.target_anew else tokens.continuation(self.target_space + text)

    def head(self, tokens: TextTokenizer) -> list[int]:
        """Returns ids that examples may all start with: what stands before the first field, mask or target.

        The last of them differ in an example whose field merges with the text before it.
        """
        head: list[int] = []
        for part in self.parts:
            if isinstance(part, Text):
                stop = part.pieces.index(None) if None in part.pieces else len(part.pieces)
                head += part.encode(tokens, "".join(part.pieces[:stop]))
                if stop < len(part.pieces):
                    break
            elif MASK in part:
                break
            else:
                head += part
        return head

    def types(self, ids: Sequence[int]) -> list[int]:
        """Returns the token type of each id."""
        if self.type_after not in ids:
            return [0] * len(ids)
        first = ids.index(self.type_after) + 1
        return [0] * first + [1] * (len(ids) - first)


def split_sides(template: Template) -> tuple[Template, Template]:
    """Splits a template at `{decoder}`, or before `{target}`: the encoder's and the decoder's part.

    White space at the split, which is there for the eye, belongs to neither.
    """
    pieces = template.pieces
    at = pieces.index(ToDecoder()) if ToDecoder() in pieces else pieces.index(Target())
    source, decoder = list(pieces[:at]), [piece for piece in pieces[at:] if piece != ToDecoder()]
    for part, end, strip in ((source, -1, str.rstrip), (decoder, 0, str.lstrip)):
        if part and isinstance(part[end], Hard):
            text = strip(part.pop(end).text)
            if text:
                part.insert(len(part) if end else 0, Hard(text))
    return Template(template.text, tuple(source)), Template(template.text, tuple(decoder))


def make_layout(
    template: Template,
    tokens: TextTokenizer,
    vocab_size: int,
    *,
    scores_eos: bool,
    first_row: int = 0,
    start_id: int | None = None,
) -> Layout:
    """Lays a template out for a tokenizer.

    Args:
      scores_eos: whether the end of sequence is scored behind the target without being asked for.
      first_row: the row of the soft prompt that the first slot starts with.
      start_id: of a decoder behind an encoder, which starts with it.

    Raises:
      InputError: a special token the tokenizer lacks, or something behind `{target}`.
    """
    pieces, target_space, target_tail = _split_target(template, tokens, scores_eos)
    by_hand = any(isinstance(piece, Special) for piece in template.pieces)
    leading = () if by_hand else tokens.leading
    if start_id is not None:
        leading = (start_id, *leading)
    trailing = () if by_hand or template.has_target else tokens.trailing
    text_at = [at for at, piece in enumerate(pieces) if not isinstance(piece, Soft)] or [len(pieces)]

    parts: list[tuple[int, ...] | Text] = []
    soft_row = vocab_size + first_row
    fresh = True  # Whether no text stands before this piece since the last soft slot.
    for at, piece in enumerate(pieces):
        if at == text_at[0]:
            parts.append(leading)
        if isinstance(piece, Soft):
            parts.append(tuple(range(soft_row, soft_row + piece.length)))
            soft_row += piece.length
            fresh = True
        elif isinstance(piece, Hard | Field):
            part = (piece.text,) if isinstance(piece, Hard) else (None,)
            if parts and isinstance(parts[-1], Text):
                parts[-1] = dataclasses.replace(parts[-1], pieces=parts[-1].pieces + part)
            else:
                parts.append(_text_after(pieces[at - 1] if at else None, part, fresh, tokens))
            fresh = False
        else:
            strips = tokens.strips_before(_piece_id(piece, tokens))
            if parts and isinstance(parts[-1], Text):
                if isinstance(piece, Mask) and strips and (parts[-1].pieces[-1] or "").endswith(" "):
                    target_space = " "
                parts[-1] = dataclasses.replace(parts[-1], rstrip=strips)
            parts.append((MASK,) if isinstance(piece, Mask) else (_piece_id(piece, tokens),))
            fresh = fresh and not isinstance(piece, Mask)
        if at == text_at[-1]:
            parts.append(trailing)
    if text_at == [len(pieces)]:
        parts.append(leading + trailing)
    return Layout(
        parts=tuple(part for part in parts if part),
        fields=tuple(piece.name for piece in pieces if isinstance(piece, Field)),
        target_space=target_space,
        target_anew=start_id is not None and not any(isinstance(piece, Hard | Field) for piece in pieces),
        target_tail=target_tail,
        type_after=tokens.special_id("sep") if Special("sep") in pieces and tokens.pair_types else None,
    )


def _split_target(template: Template, tokens: TextTokenizer, scores_eos: bool):
    """Returns the pieces before `{target}` (all, if there is none), the space before it and the ids behind it."""
    pieces = list(template.pieces)
    if not template.has_target:
        return pieces, "", ()
    at = pieces.index(Target())
    behind = pieces[at + 1 :]
    if behind not in ([], [Special("eos")]):
        raise InputError(f"only {{eos}} may stand behind {{target}} (move the rest before it): {template.text!r}")
    pieces = pieces[:at]
    eos = tokens.tokenizer.eos_token_id
    tail = (tokens.special_id("eos"),) if behind else (eos,) if scores_eos and eos is not None else ()
    if pieces and isinstance(pieces[-1], Hard) and pieces[-1].text.endswith(" "):
        text = pieces.pop().text[:-1]
        return pieces + ([Hard(text)] if text else []), " ", tail
    return pieces, "", tail


def _text_after(before, part: tuple[str | None], fresh: bool, tokens: TextTokenizer) -> Text:
    """The text that starts behind a piece; behind a special token it may be a continuation."""
    behind_special = isinstance(before, Mask | Special) and not fresh
    return Text(part, anew=not behind_special or tokens.starts_anew_after(_piece_id(before, tokens)))


def _piece_id(piece: Mask | Special, tokens: TextTokenizer) -> int:
    return tokens.special_id("mask" if isinstance(piece, Mask) else piece.name)
