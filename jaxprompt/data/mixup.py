"""mixup: the embeddings of two examples, and their losses, in one (Zhang et al. 2018; of words, Guo et al. 2019)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxprompt.data.order import generator
from jaxprompt.text.encoded import MIX_LABEL, MIX_SHARE, Encoded

_STREAM = 13


@dataclass(frozen=True)
class Mixup:
    """Mixes the examples of a batch by the step, and by nothing else.

    Token by token from the start, as far as the shorter one goes, and words with words only: soft rows and special tokens
    stay as they are.

    Attributes:
      alpha: shares are drawn from Beta(alpha, alpha).
      vocab_size: ids from it on are soft rows.
      special: ids that are not mixed.
    """

    alpha: float
    vocab_size: int
    special: tuple[int, ...]
    seed: int

    def __call__(self, examples: Sequence[Encoded], step: int) -> list[Encoded]:
        """Returns the examples, another one of them mixed into each."""
        rng = generator(self.seed, _STREAM, step)
        partners = rng.permutation(len(examples))
        shares = rng.beta(self.alpha, self.alpha, len(examples)).astype(np.float32)
        return [
            self._mixed(example, examples[partner], share)
            for example, partner, share in zip(examples, partners, shares, strict=True)
        ]

    def _mixed(self, example: Encoded, other: Encoded, share: np.float32) -> Encoded:
        ids, mix = example.ids.copy(), np.zeros(len(example.ids), np.float32)
        both = min(len(ids), len(other.ids))
        words = self._words(ids[:both]) & self._words(other.ids[:both])
        ids[:both] = np.where(words, other.ids[:both], ids[:both])
        mix[:both] = np.where(words, share, 0.0)
        answers = {**example.answers, MIX_LABEL: other.answers["label"], MIX_SHARE: float(share)}
        return dataclasses.replace(example, mix_ids=ids, mix=mix, answers=answers)

    def _words(self, ids: np.ndarray) -> np.ndarray:
        return (ids < self.vocab_size) & ~np.isin(ids, self.special)
