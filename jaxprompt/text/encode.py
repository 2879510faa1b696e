"""One row of data -> token ids, up to what is scored."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int32

from jaxprompt.errors import InputError
from jaxprompt.text.encoded import Encoded, constant, counting, int32, segment_starts
from jaxprompt.text.layout import MASK, Layout, Text, make_layout, split_sides
from jaxprompt.text.templates import Field, Hard, Template, ToDecoder, name_tokens
from jaxprompt.text.tokens import TextTokenizer, text_tokenizer
from jaxprompt.text.truncate import beginning, shorten
from jaxprompt.text.values import shown, text_value, where

if TYPE_CHECKING:  # Importing it takes seconds.
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A row's ids up to what is scored.

    Attributes:
      ids: `layout.MASK` among them, where a masked model predicts. Of an encoder-decoder, the decoder's.
      source: the encoder's, of an encoder-decoder; else None.
      truncated: whether field text was cut to fit.
      read, source_read: as in `Encoded`.
    """

    ids: list[int]
    source: Int32[np.ndarray, "source"] | None
    truncated: bool
    read: list[bool] | None = None
    source_read: list[bool] | None = None

    def read_in(self, example: Encoded) -> Bool[np.ndarray, "length"] | None:
        """Returns the marks of an example that is laid out from the trunk, all segments of a masked model's alike."""
        if self.read is None or self.source is not None:
            return None
        found, read = np.zeros(len(example.ids), bool), self.read
        if MASK not in self.ids:
            found[: len(read)] = read
            return found
        at = self.ids.index(MASK)
        for start, end in itertools.pairwise([*segment_starts(example.segments), len(example.ids)]):
            masks = end - start - len(read) + 1
            found[start:end] = [*read[:at], *[False] * masks, *read[at + 1 :]]
        return found


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """Lays rows out by one template and tokenizer.

    Between two soft slots the ids are those of the tokenizer for the plain text; special tokens written in a text are
    ordinary text. The tokenizer's own special tokens go around the text, inside the soft tokens at either end
    (soft, [CLS], text, [SEP]), unless the template places one of them, or any that starts or ends texts, by hand ahead
    of the target.

    Attributes:
      template: `{<|im_start|>}` and the like are special tokens in it, not columns.
      vocab_size: rows of the model's embedding; soft row i has the id `vocab_size + i`.
      causal: whether the model is a decoder; else it is masked (bidirectional), or an encoder-decoder.
      max_length: the most tokens an example may have, soft tokens included.
      scores_eos: whether the end of sequence is scored behind the target without being asked for.
      marks: whether the tokens that hold text of fields are marked, of an encoder-decoder those that its encoder reads: for
        a prompt that depends on them. Then no soft token is shared by examples.
      start_id: of an encoder-decoder, the token that its decoder starts with. What the template has before
        `{decoder}`, or before `{target}`, is the encoder's.
    """

    template: Template
    tokenizer: "PreTrainedTokenizerBase" = dataclasses.field(repr=False)
    vocab_size: int
    causal: bool
    max_length: int
    scores_eos: bool = False
    start_id: int | None = None
    marks: bool = False
    tokens: TextTokenizer = dataclasses.field(init=False, repr=False)
    layout: Layout = dataclasses.field(init=False, repr=False)
    source_layout: Layout | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        """Raises InputError where template, tokenizer and model do not go together."""
        if ToDecoder() in self.template.pieces and self.start_id is None:
            raise InputError(f"{{decoder}} in template {shown(self.template.text)} is for encoder-decoders (remove it)")
        tokens = text_tokenizer(self.tokenizer, self.vocab_size)
        template = name_tokens(self.template, tokens)
        sides = (template,) if self.start_id is None else split_sides(template)
        for side in sides:
            # Before the ids of the rows are written down.
            if side.soft_length > self.max_length:
                raise InputError(
                    f"template {shown(template.text)} has {side.soft_length} soft tokens, which do not fit max_length "
                    f"{self.max_length} (lower {{soft:N}}, or raise data.max_length if the model has "
                    "positions for it)"
                )
            for piece in side.pieces:
                if isinstance(piece, Hard) and len(beginning(tokens, piece.text, self.max_length)) < len(piece.text):
                    raise InputError(
                        f"template {shown(template.text)} has a text of over {self.max_length} tokens, all that an "
                        "example may have (shorten it)"
                    )
        lay_out = functools.partial(make_layout, tokens=tokens, vocab_size=self.vocab_size)
        source_layout = None
        if self.start_id is None:
            layout = lay_out(template, scores_eos=self.scores_eos)
        else:
            source, decoder = sides
            source_layout = lay_out(source, scores_eos=False)
            layout = lay_out(decoder, scores_eos=self.scores_eos, first_row=source.soft_length, start_id=self.start_id)
        if self.marks:
            self._check_marks(*sides)
        if self.scores_eos and not layout.target_tail:
            logging.getLogger("jaxprompt").warning(
                "no end of sequence is scored, since the tokenizer has none: what is generated ends only at the most "
                "tokens allowed (write a special token behind {target}, such as {sep})"
            )
        derived = {"template": template, "tokens": tokens, "layout": layout, "source_layout": source_layout}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def bare_source(self) -> bool:
        """Whether there is an encoder side, and no soft token is on it."""
        return self.start_id is not None and not split_sides(self.template)[0].soft_length

    def _check_marks(self, *sides: Template) -> None:
        if not any(isinstance(piece, Field) for piece in sides[0].pieces):
            raise InputError(
                f"template {shown(self.template.text)} has no field that the prompt could depend on (add one, as {{text}})"
            )
        if any(side.soft_length for side in sides[1:]):
            raise InputError(
                f"template {shown(self.template.text)} has soft tokens in the decoder, and the prompt depends on what the "
                "encoder reads (move {soft:N} before {decoder} or {target})"
            )

    def trunk(self, row: Mapping[str, Any], room: int = 0, number: int | None = None) -> Trunk:
        """Lays a row out.

        Args:
          row: the columns that the template names.
          room: how many tokens of `max_length` to leave to what follows.
          number: the row's number, for messages.

        Raises:
          InputError: a missing field, or a row too long even with its fields empty.
        """
        with naming_row(number):
            ids, read, truncated = self._side(self.layout, row, self.max_length - room)
            if self.source_layout is None:
                return Trunk(ids, None, truncated, read)
            source, source_read, cut = self._side(self.source_layout, row, self.max_length)
        return Trunk(ids, int32(source), truncated or cut, None, source_read)

    def context(self, row: Mapping[str, Any], *, number: int | None = None) -> Trunk:
        """As `trunk`, of a row whose target is to be written: something must stand before it."""
        trunk = self.trunk(row, number=number)
        check_started(trunk.ids, number)
        return trunk

    def target_ids(self, text: str, number: int | None = None) -> list[int]:
        """Returns the ids of a target as it stands behind the trunk, and those scored behind it.

        Raises InputError for a text that has none, such as half a surrogate pair.
        """
        with naming_row(number):
            return [*self.layout.target_ids(self.tokens, text), *self.layout.target_tail]

    @functools.cached_property
    def constant_head(self) -> Int32[np.ndarray, "head"]:
        """Ids that examples may all start with: soft tokens, special tokens and the text before the first field."""
        head = int32(self.layout.head(self.tokens))
        soft = np.flatnonzero(head >= self.vocab_size)
        return head[: soft[0]] if self.marks and len(soft) else head

    def shared_head(self, contexts: Iterable[Sequence[int] | Int32[np.ndarray, "length"]]) -> int:
        """Returns how much of the constant head all the contexts start with, leaving each at least its last token.

        Those ids never see the example in a decoder, so that one computation serves all. 0 in other models.
        """
        shared = len(self.constant_head) if self.causal else 0
        for context in contexts:
            shared = min(shared, len(context) - 1)
            differs = self.constant_head[:shared] != int32(context[:shared])
            if differs.any():
                shared = int(differs.argmax())
        return shared

    def example(self, ids: list[int], **parts: Any) -> Encoded:
        """Returns an example of these ids; `parts` are fields of `Encoded` that are not as in plain text."""
        length = len(ids)
        if "types" not in parts:
            types = self.layout.types(ids)
            parts["types"] = int32(types) if any(types) else constant(0, length)
        defaults = {
            "segments": constant(1, length),
            "positions": counting(length),
            "branches": constant(0, length),
            **dict.fromkeys(("target_at", "target_ids", "target_group"), constant(0, 0)),
        }
        return Encoded(ids=int32(ids), **(defaults | parts))

    def _side(self, layout: Layout, row: Mapping[str, Any], limit: int) -> tuple[list[int], list[bool] | None, bool]:
        """Returns the ids up to the target, at most `limit` of them, which are read, and whether fields were cut for that."""
        whole = [text_value(row, name, None) for name in layout.fields]
        texts = [beginning(self.tokens, text, self.max_length) for text in whole]
        trunk = self._assemble(layout, texts)
        if len(trunk) <= limit:
            # A beginning may be white space that a special token swallows.
            return trunk, self._read(layout, texts), texts != whole
        full, excess = texts, 0
        # Tokens next to a cut may come out differently, hence the loop; it ends, at the latest, with empty fields.
        while len(trunk) > limit and any(texts):
            excess += len(trunk) - limit
            texts = shorten(self.tokens, full, excess)
            trunk = self._assemble(layout, texts)
        if len(trunk) > limit:
            needed = len(trunk) + self.max_length - limit
            soft = sum(token >= self.vocab_size for token in trunk)
            raise InputError(
                f"{needed} tokens with empty fields ({soft} soft, "
                f"{len(trunk) - soft} of the template, {self.max_length - limit} of the target) "
                f"do not fit max_length {self.max_length} (raise it, or shorten the template or the target)"
            )
        return trunk, self._read(layout, texts), True

    def _read(self, layout: Layout, texts: Sequence[str]) -> list[bool] | None:
        """Which ids of `_assemble` hold text of fields; None unless that is to be marked."""
        if not self.marks:
            return None
        read: list[bool] = []
        fields = iter(texts)
        for part in layout.parts:
            read += part.read(self.tokens, part.filled(fields)) if isinstance(part, Text) else [False] * len(part)
        return read

    def _assemble(self, layout: Layout, texts: Sequence[str]) -> list[int]:
        trunk: list[int] = []
        fields = iter(texts)
        for part in layout.parts:
            if not isinstance(part, Text):
                trunk += part
                continue
            trunk += part.encode(self.tokens, part.filled(fields))
        return trunk


def check_started(trunk: Sequence[int], number: int | None) -> None:
    """Raises InputError where nothing stands before what is to be written."""
    if not trunk:
        raise InputError(f"{where(number)}nothing stands before {{target}} (put {{bos}}, text or a soft slot there)")


@contextlib.contextmanager
def naming_row(number: int | None) -> Iterator[None]:
    """Puts the row's number before what is wrong inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where(number)}{error}") from None
