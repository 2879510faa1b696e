"""The batches of a data set."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.data.cache import AheadCache
from jaxprompt.data.mixing import Mixture
from jaxprompt.data.mixup import Mixup
from jaxprompt.data.order import Order, Parts
from jaxprompt.data.packing import RowPlan, pack
from jaxprompt.errors import InputError
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
      cache: what is ahead of each example; None: it is computed in every batch.
    """

    examples: Sequence[Encoded]
    order: Order | Mixture | Parts
    plan: RowPlan
    num_words: int = 1
    cache: AheadCache | None = None

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Packs the examples of the given numbers."""
        batch = pack([self.examples[i] for i in numbers], self.plan, num_words=self.num_words, index=numbers)
        return batch if self.cache is None else self.cache.with_ahead(batch)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batch of each step from `start_step` on, without end. Any step can be resumed at exactly."""
        return map(self.__getitem__, itertools.count(start_step))

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        return self.batch(self.order.batch(step))

    def eval_batches(self) -> Iterator[Batch]:
        """Yields every example once; the last batch may hold fewer, in the same shapes."""
        numbers, size = self.order.epoch(0), self.order.batch_size
        for start in range(0, len(numbers), size):
            yield self.batch(numbers[start : start + size])


# Batches that are ready before they are asked for: one is at work, one on its way, and one may take longer than others.
READY = 3


@dataclass(frozen=True)
class FreshLoader:
    """Batches of examples that are encoded when they are drawn: rows that are not all held, or that change by epoch.

    Attributes:
      encode: gives the example of a number in an epoch, without its hoisted prefix; a pure function.
      order: which of them make up each batch.
      plan: the shapes of the rows; a batch of an example that is larger comes in larger ones.
      num_words: `Objective.num_words`.
      workers: processes that do so; 0: a thread of this one.
      mixup: what is done to the examples of a step's batch.
    """

    encode: Callable[[int, int], Encoded]
    order: Order | Mixture | Parts
    plan: RowPlan
    num_words: int = 1
    workers: int = 0
    mixup: Mixup | None = None

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    def __len__(self) -> int:
        """Batches without end, as far as a step is counted."""
        return 2**31 - 1

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        drawn = list(zip(*map(np.ndarray.tolist, self.order.drawn(step)), strict=True))
        examples = [self.encode(number, epoch) for number, epoch in drawn]
        if self.mixup is not None:
            examples = self.mixup(examples, step)
        index = [number % 2**31 for number, _ in drawn]
        return pack(examples, self.plan.holding(examples), num_words=self.num_words, index=index)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batch of each step from `start_step` on, made ahead. Any step can be resumed at exactly."""
        grain = _grain()
        batches = grain.MapDataset.source(self)[start_step:]
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=READY))
        if self.workers:
            _parse_no_flags()
            options = grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=READY)
            batches = batches.mp_prefetch(options)
        iterator = iter(batches)
        try:
            yield from iterator
        finally:
            iterator.close()


def _grain() -> Any:
    try:
        import grain
    except ImportError:
        raise InputError(
            "data.stream and data.augment need grain (pip install 'jaxprompt[stream]', or set them to false)"
        ) from None
    return grain


def _parse_no_flags() -> None:
    """Lets grain read its flags, which have their defaults in a program that does not parse any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
