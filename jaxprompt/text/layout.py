"""A template made ready for one tokenizer: which ids are fixed, what text is tokenised together."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from jaxprompt.errors import InputError
from jaxprompt.text.templates import (
    Alone,
    Edge,
    Field,
    Hard,
    Mask,
    Piece,
    Soft,
    Spaces,
    Special,
    Target,
    Template,
    ToDecoder,
)
from jaxprompt.text.tokens import ROLES, TextTokenizer
from jaxprompt.text.values import check_unicode, shown

# Stands in a trunk for the mask tokens, of which a label word needs one per token.
MASK = -1
# Unicode's, as tokenizers has it; Python's str.strip takes more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclasses.dataclass(frozen=True)
class Text:
    """Text tokenised as one string.

    Attributes:
      pieces: hard text, None for the next field, or where the text is trimmed.
      anew: whether it is tokenised as text by itself; else as a continuation of what stands before it.
      lstrip, rstrip: whether the special token before it, or behind it, swallows the white space beside itself.
    """

    pieces: tuple[str | Edge | None, ...]
    anew: bool
    lstrip: bool = False
    rstrip: bool = False

    def filled(self, fields: Iterator[str]) -> "Parts":
        """Returns the text with as many of the fields' as it has."""
        # What is closed cannot lose more; `open` may, at its start.
        closed, open_, trims = [], [], False
        for piece in (*self.pieces, Edge(True)):
            if not isinstance(piece, Edge):
                open_.append((next(fields), True) if piece is None else (piece, False))
                continue
            open_ = _stripped(open_, 0) if trims else open_
            closed += open_ if piece.start else _stripped(open_, -1)
            open_, trims = [], piece.start
        return self._within_specials(closed)

    def encode(self, tokens: TextTokenizer, parts: "Parts") -> list[int]:
        """Returns the ids of what `filled` returns."""
        text = "".join(part for part, _ in parts)
        return tokens.encode(text) if self.anew else tokens.continuation(text)

    def read(self, tokens: TextTokenizer, parts: "Parts") -> list[bool]:
        """Returns of each id of `encode` whether some of a field is in it."""
        text = "".join(part for part, _ in parts)
        of_field = [field for part, field in parts for _ in part]
        spans = tokens.offsets(text) if self.anew else tokens.continued_offsets(text)
        return [any(of_field[start:end]) for start, end in spans]

    def beginning(self, stop: int) -> "Parts":
        """Returns its first pieces, none of which is a field."""
        return self._within_specials([(piece, False) for piece in self.pieces[:stop] if isinstance(piece, str)])

    def _within_specials(self, parts: "Parts") -> "Parts":
        parts = _stripped(parts, 0, _WHITE_SPACE) if self.lstrip else parts
        return _stripped(parts, -1, _WHITE_SPACE) if self.rstrip else parts


# A text in parts, each with whether it is a field's.
Parts = list[tuple[str, bool]]


def _stripped(parts: Parts, end: int, white_space: str | None = None) -> Parts:
    """Without white space at its start (0) or end (-1)."""
    parts = list(parts)
    while parts:
        text, field = parts[end]
        text = text.lstrip(white_space) if end == 0 else text.rstrip(white_space)
        if text:
            parts[end] = text, field
            break
        parts.pop(end)
    return parts


@dataclasses.dataclass(frozen=True)
class Layout:
    """A template's parts in order, up to the target.

    Attributes:
      parts: fixed ids (`MASK` among them), or text.
      fields: the column of each field, in order, repeats included.
      target: how a target loses white space; None: there is none.
      target_space: " " if a target or label word has its tokens behind a space, else "".
      target_end: white space that a target or label word ends with.
      target_anew: whether a target or label word is tokenised as text by itself; else as a continuation.
      target_tail: the ids scored behind the target or label word.
      type_after: the id behind whose first occurrence the token type is 1, or None.
    """

    parts: tuple[tuple[int, ...] | Text, ...]
    fields: tuple[str, ...]
    target: Target | None
    target_space: str
    target_end: str
    target_anew: bool
    target_tail: tuple[int, ...]
    type_after: int | None

    def target_ids(self, tokens: TextTokenizer, text: str) -> list[int]:
        """Returns the ids of a target or label word, without the tail. Raises InputError as `TextTokenizer.encode`."""
        text = text if self.target is None else self.target.of(text)
        text = self.target_space + text + self.target_end
        return tokens.encode(text) if self.target_anew else tokens.continuation(text)

    def word_ids(self, tokens: TextTokenizer, word: str) -> list[int]:
        """As `target_ids`, of a label word, whose own leading space is the template's where that has one.

        The name of a special token is that token.

        Raises:
          InputError: also for a word in the spelling of a vocabulary file, as "Ġgood", "▁good" or "##ing".
        """
        check_unicode(word, f"label word {shown(word)}")
        if word in tokens.special_names:
            return [tokens.special_id(word)]
        marked = re.fullmatch("(Ġ|▁|##)(.+)", word)
        if marked:
            mark, rest = marked.groups()
            # Ġ is a letter of Maltese, to tokenizers that know it as one, and ## may begin a text.
            letter = "Ġ" in tokens.vocabulary and tokens.tokenizer.decode([tokens.vocabulary["Ġ"]]) == "Ġ"
            if mark == "▁" or (mark == "Ġ" and not letter) or word in tokens.vocabulary:
                meant = rest if mark == "##" or self.target_space else f" {rest}"
                raise InputError(f"label word {shown(word)} is spelled as in a vocabulary file (write {shown(meant)})")
        return self.target_ids(tokens, word.removeprefix(" ") if self.target_space else word)

    def unseen_rows(self, vocab_size: int, pool: str) -> int:
        """Returns how many rows of the soft prompt stand behind all that a causal model pools, which cannot see them.

        Args:
          pool: "first", "last" or "mean" of the tokens that are not soft.
        """
        text = [at for at, part in enumerate(self.parts) if isinstance(part, Text) or part[0] < vocab_size]
        behind = self.parts[text[0 if pool == "first" else -1] + 1 :] if text else ()
        return sum(len(part) for part in behind if not isinstance(part, Text) and part[0] >= vocab_size)

    def head(self, tokens: TextTokenizer) -> list[int]:
        """Returns ids that examples may all start with: what stands before the first field, mask or target.

        The last of them differ in an example whose field merges with the text before it.
        """
        head: list[int] = []
        for part in self.parts:
            if isinstance(part, Text):
                stop = part.pieces.index(None) if None in part.pieces else len(part.pieces)
                head += part.encode(tokens, part.beginning(stop))
                if stop < len(part.pieces):
                    break
            elif MASK in part:
                break
            else:
                head += part
        return head

    def fixed_head(self, tokens: TextTokenizer) -> list[int]:
        """Returns ids that every example starts with, whatever its fields: the head up to the text that a field is in."""
        fixed: list[int] = []
        for part in self.parts:
            if MASK in part if not isinstance(part, Text) else None in part.pieces:
                break
            fixed += part.encode(tokens, part.filled(iter(()))) if isinstance(part, Text) else part
        return fixed

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
    pieces, target_space, target_end, target_tail = _split_target(template, tokens, scores_eos)
    # What stands behind the target ends it, and says nothing of how the text begins.
    placed = {_piece_id(piece, tokens) for piece in pieces if isinstance(piece, Special)}
    by_hand = Alone() in pieces or bool(placed & tokens.surrounding_ids)
    pieces = [piece for piece in pieces if piece != Alone()]
    leading = () if by_hand else tokens.leading
    if start_id is not None:
        leading = (start_id, *leading)
    trailing = () if by_hand or template.has_target else tokens.trailing
    text_at = [at for at, piece in enumerate(pieces) if not isinstance(piece, Soft)] or [len(pieces)]

    parts: list[tuple[int, ...] | Text] = []
    soft_row = vocab_size + first_row
    fresh = True  # Whether no text stands before this piece since the last soft slot.
    at = 0
    while at < len(pieces):
        piece, end = pieces[at], at + 1
        if at == text_at[0]:
            parts.append(leading)
        if isinstance(piece, Soft):
            parts.append(tuple(range(soft_row, soft_row + piece.length)))
            soft_row += piece.length
            fresh = True
        elif isinstance(piece, Hard | Field | Edge):
            while end < len(pieces) and isinstance(pieces[end], Hard | Field | Edge):
                end += 1
            behind = pieces[end] if end < len(pieces) else None
            text = _text(pieces[at:end], pieces[at - 1] if at else None, behind, fresh, tokens)
            if isinstance(behind, Mask) and text.rstrip and str(text.pieces[-1]).endswith(" "):
                target_space = " "
            parts.append(text)
            fresh = False
        else:
            parts.append((MASK,) if isinstance(piece, Mask) else (_piece_id(piece, tokens),))
            # Behind its start, as the tokenizer places it itself, a text begins.
            fresh = fresh and isinstance(piece, Special) and piece.name in ROLES
        at = end
        if at == text_at[-1] + 1:
            parts.append(trailing)
    if text_at == [len(pieces)]:
        parts.append(leading + trailing)

    target_anew = start_id is not None and not any(isinstance(piece, Hard | Field) for piece in pieces)
    last = pieces[-1] if pieces else None
    if target_anew or (isinstance(last, Special) and tokens.strips_after(_piece_id(last, tokens))):
        target_space = ""
    if isinstance(last, Special) and not fresh:
        target_anew = tokens.starts_anew_after(_piece_id(last, tokens))
    return Layout(
        parts=tuple(part for part in parts if part),
        fields=tuple(piece.name for piece in pieces if isinstance(piece, Field)),
        target=next((piece for piece in template.pieces if isinstance(piece, Target)), None),
        target_space=target_space,
        target_end=target_end,
        target_anew=target_anew,
        target_tail=target_tail,
        type_after=tokens.tokenizer.sep_token_id
        if tokens.tokenizer.sep_token_id in placed and tokens.pair_types
        else None,
    )


def _split_target(template: Template, tokens: TextTokenizer, scores_eos: bool):
    """Returns the pieces before `{target}` (all, if there is none), the white space around it and the ids behind it."""
    pieces = list(template.pieces)
    if not template.has_target:
        return pieces, "", "", ()
    at = pieces.index(Target())
    pieces, behind = pieces[:at], pieces[at + 1 :]
    space = end = ""
    if behind and isinstance(behind[0], Spaces):
        end = behind.pop(0).text
    if any(not isinstance(piece, Special) or piece.name in ("bos", "cls") for piece in behind):
        raise InputError(
            "only {eos}, {sep} or another special token, by its own name, may stand behind {target} (move the rest "
            f"before it): {shown(template.text)}"
        )
    tail = tuple(_piece_id(piece, tokens) for piece in behind)
    if not tail and scores_eos and tokens.tokenizer.eos_token_id is not None:
        tail = (tokens.special_id("eos"),)
    if pieces and isinstance(pieces[-1], Hard) and pieces[-1].text.endswith(" "):
        text, space = pieces.pop().text[:-1], " "
        pieces += [Hard(text)] if text else []
    return pieces, space, end, tail


def _text(
    pieces: Sequence[Hard | Field | Edge],
    before: Piece | None,
    behind: Piece | None,
    fresh: bool,
    tokens: TextTokenizer,
) -> Text:
    """The text between two other pieces; behind a special token it may be a continuation."""
    before_id = _piece_id(before, tokens) if isinstance(before, Mask | Special) else None
    behind_id = _piece_id(behind, tokens) if isinstance(behind, Mask | Special) else None
    return Text(
        tuple(
            piece if isinstance(piece, Edge) else piece.text if isinstance(piece, Hard) else None for piece in pieces
        ),
        anew=before_id is None or fresh or tokens.starts_anew_after(before_id),
        lstrip=before_id is not None and tokens.strips_after(before_id),
        rstrip=behind_id is not None and tokens.strips_before(behind_id),
    )


def _piece_id(piece: Mask | Special, tokens: TextTokenizer) -> int:
    return tokens.special_id("mask" if isinstance(piece, Mask) else piece.name)
