"""One row of data -> token ids and what is scored in them."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int32

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.text.encoded import Encoded, constant, counting, int32
from jaxprompt.text.layout import MASK, Layout, Text, make_layout, split_sides
from jaxprompt.text.templates import Template, ToDecoder
from jaxprompt.text.tokens import TextTokenizer, text_tokenizer
from jaxprompt.text.truncate import shorten
from jaxprompt.text.values import text_value

if TYPE_CHECKING:  # Importing it takes seconds.
    from transformers import PreTrainedTokenizerBase

_START = "put {bos}, text or a soft slot there"
Objective = Literal["generation", "verbalizer", "classifier", "similarity"]


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """Turns rows into examples, by one template, tokenizer and objective.

    Between two soft slots the ids are those of the tokenizer for the plain text; special tokens written in a text are
    ordinary text. The tokenizer's own special tokens go around the text, inside the soft tokens at either end
    (soft, [CLS], text, [SEP]), unless the template places any special token by hand.

    Attributes:
      vocab_size: rows of the model's embedding; soft row i has the id `vocab_size + i`.
      causal: whether the model is a decoder; else it is masked (bidirectional), or an encoder-decoder.
      max_length: the most tokens an example may have, soft tokens included.
      objective: "generation" scores every token of a target and the end of sequence; "verbalizer" scores label words
        at `{target}` or `{mask}`; "classifier" and "similarity" pool tokens of the text.
      words: for a verbalizer, per label its label words.
      start_id: of an encoder-decoder, the token that its decoder starts with. What the template has before
        `{decoder}`, or before `{target}`, is the encoder's.
      pool: for a classifier or similarity, "first" or "last" of the tokens that are not soft, or "mean" of all.
      word_ids: per label word, labels in order, its tokens.
      word_labels: per label word, its label.
    """

    template: Template
    tokenizer: "PreTrainedTokenizerBase" = dataclasses.field(repr=False)
    vocab_size: int
    causal: bool
    max_length: int
    objective: Objective
    words: tuple[tuple[str, ...], ...] | None = None
    start_id: int | None = None
    pool: str = "mean"
    word_ids: tuple[tuple[int, ...], ...] = dataclasses.field(init=False)
    word_labels: tuple[int, ...] = dataclasses.field(init=False)
    tokens: TextTokenizer = dataclasses.field(init=False, repr=False)
    layout: Layout = dataclasses.field(init=False, repr=False)
    source_layout: Layout | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        """Raises InputError where template, objective and model do not go together."""
        _check(self.template, self.objective, self.causal, self.start_id is not None, self.words)
        tokens = text_tokenizer(self.tokenizer)
        lay_out = functools.partial(make_layout, tokens=tokens, vocab_size=self.vocab_size)
        scores_eos, source_layout = self.objective == "generation", None
        if self.start_id is None:
            layout = lay_out(self.template, scores_eos=scores_eos)
        else:
            source, decoder = split_sides(self.template)
            source_layout = lay_out(source, scores_eos=False)
            layout = lay_out(decoder, scores_eos=scores_eos, first_row=source.soft_length, start_id=self.start_id)
        words = self.words or ()
        derived = {
            "tokens": tokens,
            "layout": layout,
            "source_layout": source_layout,
            "word_ids": _word_ids(words, tokens, layout),
            "word_labels": tuple(label for label, group in enumerate(words) for _ in group),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def num_words(self) -> int:
        """Label words in all, or 1 without a verbalizer: the stride of `Batch.target_group`."""
        return len(self.word_ids) or 1

    def encode(
        self, row: Mapping[str, Any], target: str | None = None, label: int | None = None, *, number: int | None = None
    ) -> Encoded:
        """Encodes one row.

        The last token of a target is not among the ids, since nothing follows for it to predict.

        Args:
          row: the columns that the template names.
          target: the text to write; generation only.
          label: the class, where there is one.
          number: the row's number, for messages.

        Raises:
          InputError: a missing field or target, or an example too long even with its fields empty.
        """
        target_ids = self._target_ids(target, number) if self.objective == "generation" else []
        # What the longest path has beyond the trunk (in a masked model one mask is in the trunk already).
        beyond = max(len(target_ids), *map(len, self.word_ids), 1) - 1
        trunk, truncated = self._trunk(self.layout, row, self.max_length - beyond, number)
        if self.source_layout is not None:
            source, cut = self._trunk(self.source_layout, row, self.max_length, number)
            example = self._written(trunk, target_ids, label, truncated or cut, number)
            return dataclasses.replace(example, source=int32(source))
        if self.objective in ("classifier", "similarity"):
            parts = {"pool_at": self._pool_at(trunk, number)}
        elif not self.causal:
            return self._masked(trunk, label, truncated)
        else:
            return self._written(trunk, target_ids, label, truncated, number)
        return self._example(trunk, label, truncated, **parts)

    def context(self, row: Mapping[str, Any], *, number: int | None = None) -> list[int]:
        """Returns the ids before the target of a row, for generation to continue. Raises InputError as `encode`."""
        trunk, _ = self._trunk(self.layout, row, self.max_length, number)
        if not trunk:
            raise InputError(f"{_where(number)}nothing stands before {{target}} ({_START})")
        return trunk

    def source(self, row: Mapping[str, Any], *, number: int | None = None) -> list[int]:
        """Returns the encoder's ids of a row, of an encoder-decoder. Raises InputError as `encode`."""
        return self._trunk(self.source_layout, row, self.max_length, number)[0]

    @functools.cached_property
    def constant_head(self) -> Int32[np.ndarray, "head"]:
        """Ids that examples may all start with: soft tokens, special tokens and the text before the first field."""
        return int32(self.layout.head(self.tokens))

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

    def _written(
        self, trunk: list[int], target_ids: list[int], label: int | None, truncated: bool, number: int | None
    ) -> Encoded:
        """What a causal model or a decoder writes behind the trunk: the target, or each label word."""
        if not trunk:
            raise InputError(f"{_where(number)}nothing stands before {{target}} ({_START})")
        if not target_ids:
            return self._branched(trunk, label, truncated)
        first, count = len(trunk) - 1, len(target_ids)
        return self._example(
            trunk + target_ids[:-1],
            label,
            truncated,
            target_at=int32(np.arange(first, first + count)),
            target_ids=int32(target_ids),
            target_group=constant(0, count),
        )

    def _branched(self, trunk: list[int], label: int | None, truncated: bool) -> Encoded:
        """The label words of a causal model: each branches off the trunk, less its last token."""
        last = len(trunk) - 1
        ids, positions, branches, scored = list(trunk), list(range(last + 1)), [0] * len(trunk), []
        branch = 0
        for group, word in enumerate(self.word_ids):
            ahead = word[:-1]
            branch += bool(ahead)
            scored += [(last, word[0], group)]
            scored += [(len(ids) + i, token, group) for i, token in enumerate(word[1:])]
            ids += ahead
            positions += range(last + 1, last + 1 + len(ahead))
            branches += [branch] * len(ahead)
        parts = dict(zip(("target_at", "target_ids", "target_group"), int32(scored).T, strict=True))
        if branch:
            parts |= {"positions": int32(positions), "branches": int32(branches)}
        return self._example(ids, label, truncated, **parts)

    def _masked(self, trunk: list[int], label: int | None, truncated: bool) -> Encoded:
        """The label words of a masked model: one segment per length, with as many masks."""
        at = trunk.index(MASK)
        mask_id = self.tokens.special_id("mask")
        types = self.layout.types(trunk)
        ids, parts, scored = [], {"segments": [], "positions": [], "types": []}, []
        for segment, count in enumerate(sorted({len(word) for word in self.word_ids}), start=1):
            start = len(ids) + at
            ids += [*trunk[:at], *[mask_id] * count, *trunk[at + 1 :]]
            length = len(trunk) - 1 + count
            parts["segments"] += [segment] * length
            parts["positions"] += range(length)
            parts["types"] += [*types[:at], *[types[at]] * count, *types[at + 1 :]]
            for group, word in enumerate(self.word_ids):
                if len(word) == count:
                    scored += [(start + i, token, group) for i, token in enumerate(word)]
        arrays = dict(zip(("target_at", "target_ids", "target_group"), int32(scored).T, strict=True))
        return self._example(ids, label, truncated, **arrays, **{name: int32(part) for name, part in parts.items()})

    def _example(self, ids: list[int], label: int | None, truncated: bool, **parts: Any) -> Encoded:
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
        label = -1 if label is None else label
        return Encoded(ids=int32(ids), label=label, truncated=truncated, **(defaults | parts))

    def _trunk(self, layout: Layout, row: Mapping[str, Any], limit: int, number: int | None) -> tuple[list[int], bool]:
        """Returns the ids up to the target, at most `limit` of them, and whether fields were cut for that."""
        texts = [text_value(row, name, number) for name in layout.fields]
        trunk = self._assemble(layout, texts, number)
        if len(trunk) <= limit:
            return trunk, False
        full, excess = texts, 0
        # Tokens next to a cut may come out differently, hence the loop; it ends, at the latest, with empty fields.
        while len(trunk) > limit and any(texts):
            excess += len(trunk) - limit
            texts = shorten(self.tokens, full, excess)
            trunk = self._assemble(layout, texts, number)
        if len(trunk) > limit:
            needed = len(trunk) + self.max_length - limit
            soft = sum(token >= self.vocab_size for token in trunk)
            raise InputError(
                f"{_where(number)}{needed} tokens with empty fields ({soft} soft, "
                f"{len(trunk) - soft} of the template, {self.max_length - limit} of the target) "
                f"do not fit max_length {self.max_length} (raise it, or shorten the template or the target)"
            )
        return trunk, True

    def _assemble(self, layout: Layout, texts: Sequence[str], number: int | None) -> list[int]:
        trunk: list[int] = []
        fields = iter(texts)
        for part in layout.parts:
            if not isinstance(part, Text):
                trunk += part
                continue
            ids = part.encode(self.tokens, "".join(next(fields) if piece is None else piece for piece in part.pieces))
            if ids and max(ids) >= self.vocab_size:
                token = self.tokenizer.convert_ids_to_tokens(max(ids))
                raise InputError(
                    f"{_where(number)}token {token!r} has the id {max(ids)}, but the model has {self.vocab_size} "
                    "embeddings (use the model's own tokenizer)"
                )
            trunk += ids
        return trunk

    def _target_ids(self, target: str | None, number: int | None) -> list[int]:
        if not target:
            raise InputError(f"{_where(number)}the target is empty (remove the row or give it a text)")
        return [*self.layout.target_ids(self.tokens, target), *self.layout.target_tail]

    def _pool_at(self, trunk: Sequence[int], number: int | None) -> int:
        text = [at for at, token in enumerate(trunk) if token < self.vocab_size]
        if not text:
            raise InputError(f"{_where(number)}no token to pool: the text is empty (remove the row)")
        # A mean starts at the first one: what all examples share may be taken out of their rows up to here.
        return text[-1] if self.pool == "last" else text[0]


def _check(template: Template, objective: str, causal: bool, seq2seq: bool, words: Any) -> None:
    if objective not in get_args(Objective):
        raise InputError(f"unknown objective {objective!r}{did_you_mean(objective, get_args(Objective))}")
    kind, writes = "encoder-decoder" if seq2seq else "causal" if causal else "masked", causal or seq2seq
    if objective == "generation" and not writes:
        raise InputError("generation needs a causal model (use a verbalizer or a classifier with a masked one)")
    if seq2seq and objective not in ("generation", "verbalizer"):
        raise InputError(f"a {objective} on an encoder-decoder is not implemented (use a verbalizer or generation)")
    if ToDecoder() in template.pieces and not seq2seq:
        raise InputError(f"{{decoder}} in template {template.text!r} is for encoder-decoders (remove it)")
    need = None
    if objective in ("generation", "verbalizer"):
        need = "target" if writes else "mask"
    found = [name for name, has in (("target", template.has_target), ("mask", template.has_mask)) if has]
    where = f"a {objective} on a {kind} model"
    if found and found != [need]:
        remedy = f"use {{{need}}}" if need else "remove it"
        raise InputError(f"{{{found[0]}}} in template {template.text!r} does not go with {where} ({remedy})")
    if need and not found:
        raise InputError(f"template {template.text!r} has no {{{need}}}, which {where} needs (add it)")
    if objective == "verbalizer" and not words:
        raise InputError("a verbalizer needs label words (give some for each label)")
    if words and objective != "verbalizer":
        raise InputError(f"label words do not go with a {objective} (remove them, or use a verbalizer)")


def _word_ids(words: Sequence[Sequence[str]], tokens: TextTokenizer, layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Tokenises the label words as they stand in the text, each once."""
    seen: dict[tuple[int, ...], tuple[int, str]] = {}
    for label, group in enumerate(words):
        if not group:
            raise InputError(f"label {label} has no label words (give at least one)")
        for word in group:
            ids = tuple(layout.target_ids(tokens, word)) if word.strip() else ()
            if not ids:
                raise InputError(f"label {label} has an empty label word {word!r} (remove it)")
            if tokens.tokenizer.unk_token_id in ids:
                raise InputError(f"label word {word!r} of label {label} is unknown to the tokenizer (choose another)")
            ids += layout.target_tail
            if ids in seen:
                other, first = seen[ids]
                raise InputError(
                    f"label word {word!r} of label {label} has the tokens of {first!r} of label {other} (give each "
                    "label its own words)"
                )
            seen[ids] = label, word
    return tuple(seen)


def _where(number: int | None) -> str:
    return "" if number is None else f"row {number}: "
