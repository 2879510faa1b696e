"""Which examples make up each batch: a pure function of the seed and the step."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxprompt.errors import InputError

# Numbers of examples, and the epoch in which each is drawn.
Drawn = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class Order:
    """The examples of each batch.

    A shuffled epoch is a permutation drawn from the seed and the epoch's number; the epochs are laid end to end and cut
    into batches, so that an epoch need not end with a batch. With `lengths` the draw is stratified: the examples,
    sorted by length, are cut into `batch_size` quantiles, and a batch takes one of each. Every example still comes once
    an epoch, and batches come out equal in tokens, which is what lets packed rows be planned to fit them.

    Attributes:
      count: examples in the data set.
      batch_size: examples in a batch.
      shuffle: False keeps the order of the file in every epoch.
      lengths: tokens of each example; None draws regardless of them.

    Raises:
      InputError: no examples, or a batch size below 1.
    """

    count: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    lengths: Int[np.ndarray, " count"] | None = None

    def __post_init__(self):
        if not self.count:
            raise InputError("no examples to pack (give at least one row of data)")
        if self.batch_size < 1:
            raise InputError(f"batch size {self.batch_size} (give 1 or more)")

    def batch(self, step: int) -> Int[np.ndarray, " batch_size"]:
        """Returns the numbers of the examples in a step's batch."""
        return self.drawn(step)[0]

    def drawn(self, step: int) -> Drawn:
        """Returns the numbers of the examples in a step's batch, and the epoch of each."""
        return self.at(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def at(self, places: Int[np.ndarray, " n"]) -> Drawn:
        """Returns what is at places of the epochs laid end to end."""
        epochs, within = np.divmod(places, self.count)
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            numbers[epochs == epoch] = self.epoch(int(epoch))[within[epochs == epoch]]
        return numbers, epochs

    # A batch spans two epochs at most, unless the data set is smaller than the batch.
    @functools.lru_cache(maxsize=4)  # noqa: B019 (holds four epochs, of which a run has two in use)
    def epoch(self, number: int) -> Int[np.ndarray, " count"]:
        """Returns the numbers of all examples in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.count)
        rng = generator(self.seed, number)
        if self.lengths is None:
            return rng.permutation(self.count)
        places = (number * self.count + np.arange(self.count)) % self.batch_size
        by_quantile = np.lexsort((rng.random(self.count), _spread(self.batch_size)[places]))
        by_length = np.lexsort((rng.random(self.count), self.lengths))
        order = np.empty(self.count, int)
        order[by_quantile] = by_length
        return order


@dataclass(frozen=True, eq=False)
class Parts:
    """The batches of an order, each in so many parts: the same examples make up a step, however it is split.

    Attributes:
      parts: into how many; the batch size must divide into them.
    """

    order: Order
    parts: int

    @property
    def batch_size(self) -> int:
        """Examples in a part."""
        return self.order.batch_size // self.parts

    def batch(self, number: int) -> Int[np.ndarray, " batch_size"]:
        """Returns the numbers of the examples in a part; the parts of all steps are counted through."""
        return self.drawn(number)[0]

    def drawn(self, number: int) -> Drawn:
        """As `Order.drawn`, of a part."""
        step, part = divmod(number, self.parts)
        here = slice(part * self.batch_size, (part + 1) * self.batch_size)
        numbers, epochs = self.order.drawn(step)
        return numbers[here], epochs[here]

    def epoch(self, number: int) -> Int[np.ndarray, " count"]:
        """As `Order.epoch`."""
        return self.order.epoch(number)


def _spread(size: int) -> Int[np.ndarray, " size"]:
    """The numbers below `size` in an order of which every stretch is spread evenly over them (van der Corput's).

    So both parts of a batch that spans two epochs have examples of all lengths.
    """
    bits = max(1, (size - 1).bit_length())
    mirrored = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(size)]
    return np.argsort(np.argsort(mirrored))


def generator(*seeds: int) -> np.random.Generator:
    """Numbers that depend on the seeds alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))
