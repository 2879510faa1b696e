"""Texts that change from epoch to epoch: words deleted, swapped, inserted or masked, and other wordings."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.data.order import generator
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.text.values import is_missing, text_value, where

# A character of a script without spaces is a word of its own.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"([{_ALONE}]|[^\s{_ALONE}]+)(\s*)")
# What is inserted, as by Karimi et al. 2021 (AEDA): it takes no thesaurus, and says nothing.
_MARKS = (".", ";", "?", ":", "!", ",")
_STREAM = 11

Words = list[tuple[str, str]]


@dataclass(frozen=True)
class Augment:
    """Changes the texts of a row by its number and the epoch, and by nothing else.

    Attributes:
      columns: whose texts change.
      changes: name of a change -> share of a text's words that it is made to, in this order.
      span: mean length of what is masked together, words.
      mask_text: what stands for it.
      alternatives: column -> columns with other wordings, of which each epoch takes one, or the column itself.
    """

    columns: tuple[str, ...]
    changes: Mapping[str, float]
    span: float
    mask_text: str
    alternatives: Mapping[str, Sequence[str]]
    seed: int

    def row(self, row: Mapping[str, Any], number: int, epoch: int) -> dict[str, Any]:
        """Returns the row with other texts. Raises InputError for a column that is not there, or holds no text."""
        rng = generator(self.seed, _STREAM, epoch, number)
        found = dict(row)
        for column, others in self.alternatives.items():
            missing = next((other for other in others if other not in row), None)
            if missing is not None:
                raise InputError(
                    f"{where(number + 1)}no column {missing!r}, which data.augment.alternatives names"
                    f"{did_you_mean(missing, row)}"
                )
            there = [column, *(other for other in others if not is_missing(row[other]) and str(row[other]).strip())]
            found[column] = text_value(row, there[rng.integers(len(there))], number + 1)
        for column in self.columns:
            text = text_value(found, column, number + 1)
            words = [match.groups() for match in _WORD.finditer(text)]
            for name, share in self.changes.items():
                if words and share:
                    words = CHANGES[name](words, share, rng, self)
            if any(self.changes.values()):
                start = text[: len(text) - len(text.lstrip())]
                found[column] = start + "".join(word + space for word, space in words)
        return found

    def choice(self, count: int, number: int, epoch: int) -> int:
        """One of so many, such as templates."""
        return int(generator(self.seed, _STREAM + 1, epoch, number).integers(count))


def _deleted(words: Words, share: float, rng: np.random.Generator, how: Augment) -> Words:
    """Each word with this probability, but never all (Wei and Zou 2019, EDA)."""
    kept = rng.random(len(words)) >= share
    kept[rng.integers(len(words))] |= not kept.any()
    return [word for word, keep in zip(words, kept, strict=True) if keep]


def _swapped(words: Words, share: float, rng: np.random.Generator, how: Augment) -> Words:
    """Two random words for each of so many, their spaces in place (Wei and Zou 2019, EDA)."""
    words = list(words)
    for _ in range(_times(len(words), share, rng)):
        one, other = rng.integers(len(words), size=2)
        (first, space), (second, other_space) = words[one], words[other]
        words[one], words[other] = (second, space), (first, other_space)
    return words


def _inserted(words: Words, share: float, rng: np.random.Generator, how: Augment) -> Words:
    """A punctuation mark behind so many random words (Karimi et al. 2021, AEDA)."""
    words = list(words)
    apart = " " if any(space for _, space in words) else ""
    for _ in range(_times(len(words), share, rng)):
        at = int(rng.integers(len(words)))
        word, space = words[at]
        words[at : at + 1] = [(word, apart), (_MARKS[rng.integers(len(_MARKS))], space)]
    return words


def _masked(words: Words, share: float, rng: np.random.Generator, how: Augment) -> Words:
    """Spans of geometric length, together so many words, each as one mask (as T5's, Raffel et al. 2020)."""
    masked = np.zeros(len(words), bool)
    left = _times(len(words), share, rng)
    for _ in range(2 * len(words)):
        if left <= 0:
            break
        length = min(int(rng.geometric(1.0 / how.span)), left, len(words))
        at = int(rng.integers(len(words) - length + 1))
        left -= length - int(masked[at : at + length].sum())
        masked[at : at + length] = True
    found: Words = []
    for number, (word, space) in enumerate(words):
        if not masked[number]:
            found.append((word, space))
        elif number and masked[number - 1]:
            found[-1] = how.mask_text, space
        else:
            found.append((how.mask_text, space))
    return found


def _times(count: int, share: float, rng: np.random.Generator) -> int:
    """How many of `count` a share is, the fraction decided by chance."""
    whole, part = divmod(count * share, 1.0)
    return int(whole) + int(rng.random() < part)


CHANGES: dict[str, Callable[[Words, float, np.random.Generator, Augment], Words]] = {
    "delete": _deleted,
    "swap": _swapped,
    "insert": _inserted,
    "mask": _masked,
}
