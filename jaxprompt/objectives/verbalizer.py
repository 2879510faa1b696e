"""Verbalizer: each label is scored by its words at the target, or at the mask (Schick and Schütze 2021, Lester et al. 2021)."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from jaxprompt.errors import InputError
from jaxprompt.objectives.base import Objective, Vocabulary
from jaxprompt.objectives.classes import Classes, ClassOptions
from jaxprompt.ops.losses import sum_by_group
from jaxprompt.text.encode import RowEncoder, check_started
from jaxprompt.text.encoded import Encoded, int32
from jaxprompt.text.layout import MASK
from jaxprompt.text.values import shown
from jaxprompt.types import Batch, Scores


class VerbalizerOptions(ClassOptions):
    type: Literal["verbalizer"] = Field("verbalizer", description="score label words")


@dataclass(frozen=True, eq=False)
class Verbalizer(Classes):
    """A word's score is the sum over its tokens; a label's probability is the sum of its words'.

    Attributes:
      word_ids: per label word, labels in order, its tokens.
    """

    name: ClassVar[str] = "verbalizer"
    Options: ClassVar = VerbalizerOptions
    needs: ClassVar = ("target", "mask")
    word_ids: tuple[tuple[int, ...], ...] = ()

    def bound(self, backbone: Any, encoder: RowEncoder) -> Objective:
        return dataclasses.replace(self, word_ids=word_ids(self.words, encoder))

    def check_variant(self, encoder: RowEncoder) -> None:
        if word_ids(self.words, encoder) != self.word_ids:
            raise InputError(
                f"the label words have other tokens in template {shown(encoder.template.text)} than in the first (write the "
                "same before and behind {target} or {mask})"
            )

    @property
    def num_words(self) -> int:
        return len(self.word_ids)

    @property
    def columns(self) -> tuple[int, ...] | None:
        """The token id of each word when every word is one token: then the head multiplies by these alone."""
        return tuple(ids[0] for ids in self.word_ids) if all(len(ids) == 1 for ids in self.word_ids) else None

    def answered(self, row: Mapping[str, Any], number: int, encoder: RowEncoder) -> list[int]:
        """The first of the label's words."""
        label = self.answer(row, number)["label"]
        return [*encoder.layout.word_ids(encoder.tokens, self.words[label][0]), *encoder.layout.target_tail]

    def candidates(self, answer: Mapping[str, Any], encoder: RowEncoder, number: int | None) -> Sequence[Sequence[int]]:
        return self.word_ids

    def lay_out(
        self, trunk: list[int], candidates: Sequence[Sequence[int]], encoder: RowEncoder, number: int | None
    ) -> Encoded:
        if MASK in trunk:
            return _masked(trunk, candidates, encoder)
        check_started(trunk, number)
        return branched(trunk, candidates, encoder)

    def at(self, batch: Batch):
        if self.columns is None:
            return batch.target_at
        # One position per example: the same for all of its words.
        rows, slots = batch.index.shape
        used = jnp.where(batch.target_weight > 0, batch.target_at, 0)
        slot = batch.target_group // self.num_words
        return jnp.zeros((rows, slots), used.dtype).at[jnp.arange(rows)[:, None], slot].max(used)

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        rows, slots = batch.index.shape
        if self.columns is not None:
            scores = vocabulary.logits(hidden, self.columns)
        else:
            logprobs = vocabulary.logprobs(hidden, batch.target_ids)
            scores = sum_by_group(logprobs * batch.target_weight, batch.target_group, slots * self.num_words)
            scores = scores.reshape(rows, slots, self.num_words)
        return self.scores(self._by_label(scores), batch)

    def _by_label(self, scores):
        if all(len(group) == 1 for group in self.words):
            return scores
        # The probability of a label is the sum of its words' probabilities.
        label = np.repeat(np.arange(len(self.words)), [len(group) for group in self.words])
        shape = (*scores.shape[:-1], len(self.words))
        peak = jax.lax.stop_gradient(jnp.full(shape, -jnp.inf).at[..., label].max(scores))
        return peak + jnp.log(jnp.zeros(shape).at[..., label].add(jnp.exp(scores - peak[..., label])))


def word_ids(words: Sequence[Sequence[str]], encoder: RowEncoder) -> tuple[tuple[int, ...], ...]:
    """Tokenises the label words as they stand in the text, each once."""
    seen: dict[tuple[int, ...], tuple[int, str]] = {}
    tokens, layout = encoder.tokens, encoder.layout
    for label, group in enumerate(words):
        if not group:
            raise InputError(f"label {label} has no label words (give at least one)")
        for word in group:
            ids = tuple(layout.word_ids(tokens, word)) if word.strip() else ()
            if not ids:
                raise InputError(f"label {label} has an empty label word {shown(word)} (remove it)")
            if tokens.tokenizer.unk_token_id in ids:
                raise InputError(
                    f"label word {shown(word)} of label {label} is unknown to the tokenizer (choose another)"
                )
            ids += layout.target_tail
            if ids in seen:
                other, first = seen[ids]
                raise InputError(
                    f"label word {shown(word)} of label {label} has the tokens of {shown(first)} of label {other} (give each "
                    "label its own words)"
                )
            seen[ids] = label, word
    if encoder.template.has_target:
        _warn_of_prefixes(seen)
    return tuple(seen)


def _warn_of_prefixes(words: Mapping[tuple[int, ...], tuple[int, str]]) -> None:
    """Warns of a label word that begins another label's: its probability is never below the other's."""
    lengths = sorted({len(ids) for ids in words})
    for ids, (label, word) in words.items():
        begins = (words[ids[:end]] for end in lengths if end < len(ids) and ids[:end] in words)
        for other, first in begins:
            if other != label:
                logging.getLogger("jaxprompt").warning(
                    f"the tokens of label word {shown(first)} begin {shown(word)} of another label, so it is always at least as "
                    "likely: write {eos} behind {target}, or choose other words"
                )
                return


def branched(trunk: list[int], words: Sequence[Sequence[int]], encoder: RowEncoder) -> Encoded:
    """The label words of a causal model: each branches off the trunk, less its last token."""
    last = len(trunk) - 1
    ids, positions, branches, scored = list(trunk), list(range(last + 1)), [0] * len(trunk), []
    branch = 0
    for group, word in enumerate(words):
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
    return encoder.example(ids, **parts)


def _masked(trunk: list[int], words: Sequence[Sequence[int]], encoder: RowEncoder) -> Encoded:
    """The label words of a masked model: one segment per length, with as many masks."""
    at = trunk.index(MASK)
    mask_id = encoder.tokens.special_id("mask")
    types = encoder.layout.types(trunk)
    ids, parts, scored = [], {"segments": [], "positions": [], "types": []}, []
    for segment, count in enumerate(sorted({len(word) for word in words}), start=1):
        start = len(ids) + at
        ids += [*trunk[:at], *[mask_id] * count, *trunk[at + 1 :]]
        length = len(trunk) - 1 + count
        parts["segments"] += [segment] * length
        parts["positions"] += range(length)
        parts["types"] += [*types[:at], *[types[at]] * count, *types[at + 1 :]]
        for group, word in enumerate(words):
            if len(word) == count:
                scored += [(start + i, token, group) for i, token in enumerate(word)]
    arrays = dict(zip(("target_at", "target_ids", "target_group"), int32(scored).T, strict=True))
    return encoder.example(ids, **arrays, **{name: int32(part) for name, part in parts.items()})
