"""The batches of a data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxprompt.data.order import Order, Parts
from jaxprompt.data.packing import RowPlan, pack
from jaxprompt.text.encoded import Encoded
from jaxprompt.types import Batch


@dataclass(frozen=True)
class Loader:
    """Packed batches of a data set.

    Attributes:
      examples: the encoded data set, without its hoisted prefix.
      order: which of them make up each batch.
      plan: the shapes of the rows, from `plan_rows` or `plan_separate`.
      num_words: `Objective.num_words`.
    """

    examples: Sequence[Encoded]
    order: Order | Parts
    plan: RowPlan
    num_words: int = 1

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Packs the examples of the given numbers."""
        return pack([self.examples[i] for i in numbers], self.plan, num_words=self.num_words, index=numbers)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batch of each step from `start_step` on, without end. Any step can be resumed at exactly."""
        step = start_step
        while True:
            yield self.batch(self.order.batch(step))
            step += 1

    def eval_batches(self) -> Iterator[Batch]:
        """Yields every example once; the last batch may hold fewer, in the same shapes."""
        numbers, size = self.order.epoch(0), self.order.batch_size
        for start in range(0, len(numbers), size):
            yield self.batch(numbers[start : start + size])
