import itertools

import jax
import numpy as np

from jaxprompt.data.loader import Loader
from jaxprompt.data.order import Order
from jaxprompt.data.packing import plan_rows, token_counts
from tests.data.test_packing import make_example

EXAMPLES = [make_example(3 + n % 7, seed=n) for n in range(10)]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def loader(examples=EXAMPLES, batch_size=4, **options):
    order = Order(len(examples), batch_size, **options)
    return Loader(examples, order, plan_rows(examples, order))


def test_training_resumes_exactly():
    lengths = token_counts(EXAMPLES)
    straight = list(itertools.islice(loader(seed=3, lengths=lengths).train_batches(), 8))
    resumed = list(itertools.islice(loader(seed=3, lengths=lengths).train_batches(5), 3))
    assert all(equal(a, b) for a, b in zip(straight[5:], resumed, strict=True))
    assert all((batch.index >= 0).sum() == 4 for batch in straight)
    assert not equal(straight[0], straight[1])


def test_evaluation_has_every_example_once():
    batches = [sorted(b.index[b.index >= 0].tolist()) for b in loader(shuffle=False).eval_batches()]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    batches = [b.index[b.index >= 0].tolist() for b in loader(lengths=token_counts(EXAMPLES)).eval_batches()]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(itertools.chain(*batches)) == list(range(10))


def test_a_data_set_smaller_than_the_batch():
    batch = next(loader(EXAMPLES[:3], 8).train_batches())
    assert np.bincount(batch.index[batch.index >= 0]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
