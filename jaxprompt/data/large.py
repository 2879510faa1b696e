"""The order of any number of examples, of which nothing is stored."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxprompt.data.order import Drawn, Order, generator

# Runs of examples that a shuffle takes together.
WINDOW = 4


@dataclass(frozen=True, eq=False)
class LargeOrder(Order):
    """An order of any number of examples, which holds none of them: their places are computed, not stored.

    Attributes:
      blocks: where runs of examples start that are read together; a shuffle then takes the runs in another order, and the
        examples of `WINDOW` of them at a time, so that no more are held. None: any example is as near as any other.
    """

    blocks: tuple[int, ...] | None = None

    def at(self, places: Int[np.ndarray, " n"]) -> Drawn:
        epochs, within = np.divmod(places, self.count)
        if not self.shuffle:
            return within, epochs
        pairs = zip(epochs.tolist(), within.tolist(), strict=True)
        return np.array([self._number(epoch, place) for epoch, place in pairs], within.dtype), epochs

    def _number(self, epoch: int, place: int) -> int:
        if self.blocks is None:
            return _shuffled(place, self.count, (self.seed, epoch))
        starts, sizes, ends = self._runs(epoch)
        # The window, the place in it, and of what that becomes the run.
        first = int(np.searchsorted(ends, place, side="right")) // WINDOW * WINDOW
        before, behind = int(ends[first - 1]) if first else 0, int(ends[min(first + WINDOW, len(ends)) - 1])
        place = before + _shuffled(place - before, behind - before, (self.seed, epoch, first))
        run = int(np.searchsorted(ends, place, side="right"))
        return int(starts[run]) + place - int(ends[run] - sizes[run])

    @functools.lru_cache(maxsize=2)  # noqa: B019 (two epochs meet in a batch)
    def _runs(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the runs start, how long they are and where they end, in the order of an epoch."""
        starts = np.asarray(self.blocks)
        sizes = np.diff(starts, append=self.count)
        order = generator(self.seed, epoch).permutation(len(starts))
        return starts[order], sizes[order], np.cumsum(sizes[order])

    def epoch(self, number: int) -> Int[np.ndarray, " count"]:
        return self.at(np.arange(number * self.count, (number + 1) * self.count))[0]


def _shuffled(place: int, count: int, seeds: tuple[int, ...]) -> int:
    """Where a place goes in a permutation that is drawn from the seeds; nothing of it is stored."""
    from grain.experimental import index_shuffle

    if count < 2:
        return place
    return index_shuffle(place, max_index=count - 1, seed=_seed(seeds), rounds=4)


@functools.lru_cache(maxsize=256)
def _seed(seeds: tuple[int, ...]) -> int:
    """One seed of several, so that no two epochs of neighbouring seeds are the same."""
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])
