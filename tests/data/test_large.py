"""Orders of which nothing is stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.data.large import WINDOW, LargeOrder
from jaxprompt.data.mixing import Mixture, temperature_weights
from jaxprompt.data.order import Order, Parts
from tests.data.test_order import check_epochs, steps

starts = st.lists(st.integers(1, 20), min_size=1, max_size=12).map(lambda sizes: (0, *np.cumsum(sizes).tolist()))


@settings(deadline=None, max_examples=30)
@given(starts, st.integers(1, 50), st.integers(0, 5), st.booleans(), st.booleans())
def test_every_epoch_has_each_example_once(starts, batch_size, seed, shuffle, together):
    check_epochs(LargeOrder(starts[-1], batch_size, seed, shuffle, blocks=starts[:-1] if together else None))


@pytest.mark.parametrize("blocks", [None, tuple(range(0, 500, 20))])
def test_order_depends_on_seed_and_epoch_and_neighbouring_seeds_share_no_epoch(blocks):
    epochs = [
        LargeOrder(500, 50, seed, blocks=blocks).epoch(number).tolist() for seed in (1, 2) for number in (0, 1, 2)
    ]
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # Far from the order of the file, too.
    assert np.abs(np.array(epochs[0]) - np.arange(500)).mean() > 100


def test_only_a_few_blocks_are_read_at_a_time():
    order = LargeOrder(1000, 10, 0, blocks=tuple(range(0, 1000, 50)))
    numbers = steps(order, 100)
    for first in range(0, 1000, 50 * WINDOW):
        window = numbers[first : first + 50 * WINDOW]
        assert len(np.unique(window // 50)) == WINDOW
        # Mixed inside, not one block behind the other.
        assert len(np.unique(window[:50] // 50)) == WINDOW


def test_the_place_in_a_large_file_takes_no_memory():
    order = LargeOrder(4_000_000_000, 4)
    numbers = np.concatenate([order.batch(step) for step in (0, 123_456_789)])
    assert len(set(numbers.tolist())) == 8 and numbers.max() < 4_000_000_000


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 10)), min_size=2, max_size=4),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_a_mixture_has_of_each_part_its_share_and_every_example_as_often(parts, batch_size, seed):
    sizes, weights = zip(*parts, strict=True)
    mixture = Mixture(tuple(Order(size, batch_size, seed) for size in sizes), weights, batch_size)
    numbers = steps(mixture, 40)
    ends = np.cumsum(sizes)
    which = np.searchsorted(ends, numbers, side="right")
    for length in (batch_size, 10 * batch_size, 40 * batch_size):
        counts = np.bincount(which[:length], minlength=len(sizes))
        assert np.abs(counts - length * np.array(weights) / sum(weights)).max() < len(sizes)
    for part, size in enumerate(sizes):
        mine = numbers[which == part] - (ends[part] - size)
        times = np.bincount(mine, minlength=size)
        assert times.max() - times.min() <= 1
        assert mine.tolist() == [mixture.orders[part].at(np.array([place]))[0][0] for place in range(len(mine))]
    # Any step by itself, and the epoch of each example.
    again = Mixture(mixture.orders, weights, batch_size)
    assert again.batch(33).tolist() == numbers[33 * batch_size : 34 * batch_size].tolist()
    _, epochs = again.drawn(39)
    assert all(epoch <= 40 * batch_size // min(sizes) for epoch in epochs)
    halves = Parts(Mixture(mixture.orders, weights, 2 * batch_size), 2)
    assert np.concatenate([halves.batch(6), halves.batch(7)]).tolist() == steps(mixture, 8)[6 * batch_size :].tolist()


def test_shares_by_temperature():
    assert temperature_weights((100, 300), 1.0) == pytest.approx((0.25, 0.75))
    assert temperature_weights((100, 10000), 2.0) == pytest.approx((10 / 110, 100 / 110))
    assert temperature_weights((1, 10**6), 1e6) == pytest.approx((0.5, 0.5), abs=1e-4)
