"""Several sets of examples in proportion."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxprompt.data.order import Drawn, Order


@dataclass(frozen=True, eq=False)
class Mixture:
    """Several orders in proportion: every stretch of batches has of each its share, as near as whole examples can be.

    Attributes:
      orders: of the parts, whose examples are numbered one part behind the other.
      weights: of the parts, of which only the ratios count.
    """

    orders: tuple[Order, ...]
    weights: tuple[float, ...]
    batch_size: int

    def batch(self, step: int) -> Int[np.ndarray, " batch_size"]:
        """As `Order.batch`."""
        return self.drawn(step)[0]

    def drawn(self, step: int) -> Drawn:
        """As `Order.drawn`; an epoch is one of the part that an example is of."""
        which, places = self._parts((step + 1) * self.batch_size)
        here = slice(step * self.batch_size, (step + 1) * self.batch_size)
        numbers, epochs = np.empty((2, self.batch_size), int)
        first = 0
        for part, order in enumerate(self.orders):
            mine = which[here] == part
            drawn, epochs[mine] = order.at(places[here][mine])
            numbers[mine] = drawn + first
            first += order.count
        return numbers, epochs

    def _parts(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Which part the first places have, and the place in that part: always the one that is furthest behind."""
        known = self._known[0]
        if len(known[0]) < length:
            # More than is asked for, so that the next steps find theirs.
            shares = np.asarray(self.weights) / sum(self.weights)
            known = self._known[0] = _taken_in_turn(shares, max(length, 4 * len(known[0]), 4096))
        return known

    @functools.cached_property
    def _known(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.zeros(0, int), np.zeros(0, int))]


def temperature_weights(counts: Sequence[int], temperature: float) -> tuple[float, ...]:
    """The share of each part by its size to the power of 1/T: T = 1 is in proportion, a large T alike.

    Source: Raffel et al. 2020, section 3.5.2 ("temperature-scaled mixing"), without their limit on sizes.
    """
    rates = np.asarray(counts, float) ** (1.0 / temperature)
    return tuple((rates / rates.sum()).tolist())


def _taken_in_turn(shares: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    which, places, taken = np.empty(length, int), np.empty(length, int), np.zeros(len(shares), int)
    for place in range(length):
        part = int(np.argmax(shares * (place + 1) - taken))
        which[place], places[place] = part, taken[part]
        taken[part] += 1
    return which, places
