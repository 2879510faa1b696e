import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprompt.data.order import Order
from jaxprompt.errors import InputError


def skewed(count):
    """Lengths with a tail that is cut at a maximum, and many ties."""
    return np.random.default_rng(count).lognormal(3, 0.7, count).astype(int).clip(1, 90)


def steps(order, count):
    return np.concatenate([order.batch(step) for step in range(count)])


def check_epochs(order):
    """Asserts that three epochs have each example once, in their order if they are not shuffled."""
    count = order.count
    numbers = steps(order, -(-3 * count // order.batch_size))
    for epoch in range(3):
        part = numbers[epoch * count : (epoch + 1) * count]
        assert sorted(part) == list(range(count))
        assert part.tolist() == order.epoch(epoch).tolist()
        if not order.shuffle:
            assert part.tolist() == list(range(count))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.booleans(), st.booleans())
def test_every_epoch_has_each_example_once(count, batch_size, seed, shuffle, balance):
    check_epochs(Order(count, batch_size, seed, shuffle, skewed(count) if balance else None))


@pytest.mark.parametrize("lengths", [None, skewed(50)])
def test_order_depends_on_seed_and_epoch(lengths):
    first, second = (Order(50, 50, 1, lengths=lengths).batch(step) for step in (0, 1))
    assert first.tolist() != second.tolist()
    assert first.tolist() != Order(50, 50, 2, lengths=lengths).epoch(0).tolist()
    assert first.tolist() == Order(50, 50, 1, lengths=lengths).epoch(0).tolist()


def test_unbalanced_batches_of_any_size_walk_through_the_same_order():
    assert steps(Order(50, 7, 1), 7).tolist() == steps(Order(50, 49, 1), 1).tolist()


@given(st.integers(1, 24), st.integers(2, 300), st.integers(0, 3))
def test_a_balanced_batch_has_one_example_of_each_quantile(batch_size, count, seed):
    batch_size = min(batch_size, count)
    lengths = skewed(count)
    order = Order(count, batch_size, seed, lengths=lengths)
    rank = np.argsort(np.argsort(lengths, kind="stable"))
    for step in range(count // batch_size):
        ranks = np.sort(rank[order.batch(step)])
        # Ties in length and the example that a quantile has more or less of move a rank a little.
        slots = (np.arange(batch_size) + 0.5) * count / batch_size
        ties = np.unique(lengths, return_counts=True)[1].max()
        assert np.abs(ranks - slots).max() <= count / batch_size + batch_size + ties


def test_balanced_batches_have_like_numbers_of_tokens():
    lengths = skewed(2000)
    blind, balanced = (
        np.array([lengths[order.batch(step)].sum() for step in range(125)])
        for order in (Order(2000, 32), Order(2000, 32, lengths=lengths))
    )
    assert balanced.std() < blind.std() / 4
    # The batch that spans two epochs (number 62) has its share of both ends of the distribution.
    assert abs(balanced[62] - balanced.mean()) < blind.std() / 2


def test_balanced_draws_are_fair():
    """Within its quantile an example meets any example of another equally often."""
    lengths = np.arange(16)
    order = Order(16, 4, lengths=lengths)
    partners = np.zeros((16, 16), int)
    for step in range(4 * 600):
        batch = order.batch(step)
        partners[np.ix_(batch, batch)] += 1
    first = partners[0]
    assert first[0] == 600 and (first[1:4] == 0).all()
    assert (np.abs(first[4:] - 150) < 60).all()


@pytest.mark.parametrize(("count", "batch_size", "message"), [(0, 4, "no examples"), (3, 0, "batch size 0")])
def test_nothing_to_order(count, batch_size, message):
    with pytest.raises(InputError, match=message):
        Order(count, batch_size)
