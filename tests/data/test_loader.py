import itertools

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxprompt.data.loader import Loader, batch_indices
from jaxprompt.data.packing import plan_rows
from tests.data.test_packing import make_example

EXAMPLES = [make_example(3 + n % 7, seed=n) for n in range(10)]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.booleans())
def test_every_epoch_has_each_example_once(count, batch_size, seed, shuffle):
    steps = -(-3 * count // batch_size)
    order = np.concatenate([batch_indices(count, batch_size, s, seed=seed, shuffle=shuffle) for s in range(steps)])
    for epoch in range(3):
        part = order[epoch * count : (epoch + 1) * count]
        assert sorted(part) == list(range(count))
        if not shuffle:
            assert part.tolist() == list(range(count))


def test_order_depends_on_seed_and_epoch():
    first, second = batch_indices(50, 50, 0, seed=1), batch_indices(50, 50, 1, seed=1)
    assert first.tolist() != second.tolist()
    assert first.tolist() != batch_indices(50, 50, 0, seed=2).tolist()
    assert first.tolist() == batch_indices(50, 50, 0, seed=1).tolist()
    # Batches of any size walk through the same order.
    assert first[14:21].tolist() == batch_indices(50, 7, 2, seed=1).tolist()


def test_training_resumes_exactly():
    loader = Loader(EXAMPLES, plan_rows(EXAMPLES, 4), 4, seed=3)
    straight = list(itertools.islice(loader.train_batches(), 8))
    resumed = list(itertools.islice(Loader(EXAMPLES, loader.plan, 4, seed=3).train_batches(5), 3))
    assert all(equal(a, b) for a, b in zip(straight[5:], resumed, strict=True))
    assert all((batch.index >= 0).sum() == 4 for batch in straight)
    assert not equal(straight[0], straight[1])


def test_evaluation_has_every_example_once_in_order():
    loader = Loader(EXAMPLES, plan_rows(EXAMPLES, 4), 4)
    batches = list(loader.eval_batches())
    assert [sorted(b.index[b.index >= 0].tolist()) for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_data_set_smaller_than_the_batch():
    loader = Loader(EXAMPLES[:3], plan_rows(EXAMPLES[:3], 8), 8, seed=0)
    batch = next(loader.train_batches())
    assert np.bincount(batch.index[batch.index >= 0]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
