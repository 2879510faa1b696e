"""Batches in an order that is a pure function of the seed and the step."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxprompt.data.encoded import Encoded
from jaxprompt.data.packing import RowPlan, pack
from jaxprompt.types import Batch


def batch_indices(count: int, batch_size: int, step: int, *, seed: int = 0, shuffle: bool = True) -> np.ndarray:
    """Returns the numbers of the examples in a step's batch.

    The order of an epoch is a permutation that depends on the seed and the epoch alone; a batch is the next
    `batch_size` examples of the epochs laid end to end, so an epoch need not end with a batch.

    Args:
      count: examples in the data set.
      shuffle: False keeps the order of the file in every epoch.
    """
    at = np.arange(step * batch_size, (step + 1) * batch_size)
    if not shuffle:
        return at % count
    epochs, within = np.divmod(at, count)
    return np.concatenate([_order(count, seed, int(e))[within[epochs == e]] for e in np.unique(epochs)])


# A batch spans two epochs at most, unless the data set is smaller than the batch.
@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(count)


@dataclasses.dataclass(frozen=True)
class Loader:
    """Packed batches of a data set.

    Attributes:
      examples: the encoded data set, without its hoisted prefix.
      plan: the shapes of its rows, from `plan_rows` or `plan_separate`.
      batch_size: examples in a batch, whatever the number of rows.
      num_words: `Encoder.num_words`.
    """

    examples: Sequence[Encoded]
    plan: RowPlan
    batch_size: int
    num_words: int = 1
    seed: int = 0
    shuffle: bool = True

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Packs the examples of the given numbers."""
        return pack([self.examples[i] for i in numbers], self.plan, num_words=self.num_words, index=numbers)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batch of each step from `start_step` on, without end. Any step can be resumed at exactly."""
        step = start_step
        while True:
            numbers = batch_indices(len(self.examples), self.batch_size, step, seed=self.seed, shuffle=self.shuffle)
            yield self.batch(numbers)
            step += 1

    def eval_batches(self) -> Iterator[Batch]:
        """Yields every example once, in order; the last batch may hold fewer, in the same shapes."""
        for start in range(0, len(self.examples), self.batch_size):
            yield self.batch(range(start, min(start + self.batch_size, len(self.examples))))
