import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.data.order import Order
from jaxprompt.data.packing import RowPlan, assign, pack, pack_separate, plan_rows, plan_separate, token_counts
from jaxprompt.errors import InputError
from jaxprompt.text.encoded import Encoded, constant, counting, int32


def make_example(length, targets=1, seed=0, segments=1):
    """An example of random ids, its segments of equal length."""
    rng = np.random.default_rng([length, targets, seed])
    one = Encoded(
        ids=int32(rng.integers(1, 99, length)),
        segments=constant(1, length),
        positions=counting(length),
        types=int32(rng.integers(0, 2, length)),
        branches=int32(rng.integers(0, 3, length)),
        target_at=int32(rng.integers(0, length, targets)),
        target_ids=int32(rng.integers(1, 99, targets)),
        target_group=int32(rng.integers(0, 4, targets)),
        answers={"label": int(rng.integers(0, 5))},
        pool_at=int(rng.integers(0, length)),
    )
    return dataclasses.replace(
        one,
        ids=np.tile(one.ids, segments),
        segments=int32(np.repeat(np.arange(1, segments + 1), length)),
        positions=np.tile(one.positions, segments),
        types=np.tile(one.types, segments),
        branches=np.tile(one.branches, segments),
    )


def unpack(batch, num_words):
    """Reads the examples back out of a batch: example number -> its ids, targets and so on, in local terms."""
    found = {}
    slots = batch.index.shape[1]
    for row, slot in zip(*np.nonzero(batch.index >= 0), strict=True):
        inputs = batch.inputs
        start = np.flatnonzero(inputs.segments[row] == slot + 1)[0]
        # Every following token up to the next slot is of this example: its first segment, then its extra ones.
        other = (inputs.segments[row] <= slots) & (inputs.segments[row] != slot + 1)
        end = next((i for i in range(start, len(other)) if other[i]), len(other))
        here = slice(start, end)
        segments = inputs.segments[row, here]
        scored = (batch.target_weight[row] == 1) & (batch.target_group[row] // num_words == slot)
        found[int(batch.index[row, slot])] = {
            "ids": inputs.ids[row, here].tolist(),
            "positions": inputs.positions[row, here].tolist(),
            "types": inputs.types[row, here].tolist(),
            "branches": inputs.branches[row, here].tolist(),
            "segments": np.unique(segments, return_inverse=True)[1].tolist(),
            "target_at": (batch.target_at[row][scored] - start).tolist(),
            "target_ids": batch.target_ids[row][scored].tolist(),
            "target_group": (batch.target_group[row][scored] % num_words).tolist(),
            "pool_at": int(batch.pool_at[row, slot] - start),
            "label": int(batch.answers["label"][row, slot]),
        }
    return found


def local(example):
    values = {
        name: getattr(example, name).tolist()
        for name in ("ids", "positions", "types", "branches", "target_at", "target_ids", "target_group")
    }
    return values | {
        "segments": (example.segments - 1).tolist(),
        "pool_at": example.pool_at,
        "label": example.answers["label"],
    }


examples_of = st.lists(
    st.builds(make_example, st.integers(2, 20), st.integers(0, 5), st.integers(0, 3), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(examples_of, st.integers(1, 4), st.booleans())
def test_packing_conserves_every_token_target_and_label(examples, row_multiple, separate):
    if separate:
        plan = plan_separate(examples, 4, row_multiple=row_multiple)
    else:
        plan = plan_rows(examples, Order(len(examples), 4), row_multiple=row_multiple)
    plan = dataclasses.replace(plan, types=True, branches=True)
    numbers = [100 + i for i in range(len(examples))]
    batch = pack(examples, plan, num_words=4, index=numbers)
    found = unpack(batch, 4)
    assert found == {number: local(example) for number, example in zip(numbers, examples, strict=True)}
    assert (batch.inputs.segments > 0).sum() == sum(len(e.ids) for e in examples)
    assert batch.target_weight.sum() == sum(len(e.target_ids) for e in examples)
    rows, length = batch.inputs.ids.shape
    assert length == plan.row_length and rows % row_multiple == 0
    assert batch.target_at.shape == (rows, plan.targets)
    assert batch.index.shape == batch.answers["label"].shape == batch.pool_at.shape == (rows, plan.slots)
    # Segments of different examples, and padding, never share a number within a row.
    for row in range(rows):
        used = batch.inputs.segments[row]
        assert (batch.inputs.ids[row][used == 0] == 0).all()
        assert (np.diff(used[used > plan.slots]) >= 0).all()
        assert ((used > 0).cumprod() == (used > 0)).all()


def test_single_segment_examples_are_numbered_by_slot():
    examples = [make_example(4, 1, seed) for seed in range(3)]
    batch = pack(examples, RowPlan(16, (1,), 1, slots=3, targets=4, types=False, branches=False))
    assert batch.inputs.ids.shape == (1, 16)
    assert batch.inputs.segments[0].tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [0] * 4
    assert batch.target_group[0][batch.target_weight[0] == 1].tolist() == [
        slot + e.target_group[0] for slot, e in enumerate(examples)
    ]


def test_best_fit_takes_the_fullest_row_with_room():
    sizes = np.array([(10, 1, 0), (7, 1, 0), (3, 1, 0), (6, 1, 0), (6, 1, 0)])
    assert assign(sizes, 8, (13, 8, 0)) == [[0, 2], [1, 3], [4]]
    assert assign(sizes, 1, (13, 8, 0)) == [[0], [1], [2], [3], [4]]
    # Targets, and what a decoder reads, fill a row too.
    assert assign(np.array([(2, 3, 0), (2, 3, 0), (2, 2, 0)]), 8, (13, 5, 0)) == [[0, 2], [1]]
    assert assign(np.array([(2, 1, 3), (2, 1, 3), (2, 1, 2)]), 8, (13, 8, 5)) == [[0, 2], [1]]


def test_separate_rows_hold_one_example_each_in_order():
    examples = [make_example(length) for length in (3, 12, 5)]
    batch = pack_separate(examples)
    assert batch.index.tolist() == [[0], [1], [2]]
    assert batch.inputs.ids.shape == (3, 16)
    assert [row[: len(e.ids)].tolist() for row, e in zip(batch.inputs.ids, examples, strict=True)] == [
        e.ids.tolist() for e in examples
    ]


@pytest.mark.parametrize(("balance", "padding"), [(False, 0.2), (True, 0.08)])
def test_a_plan_compiles_two_shapes_and_wastes_little(balance, padding):
    rng = np.random.default_rng(3)
    examples = [make_example(int(n)) for n in np.clip(rng.lognormal(3, 0.6, 3000), 4, 120)]
    order = Order(3000, 32, lengths=token_counts(examples) if balance else None)
    plan = plan_rows(examples, order)
    assert plan.row_length % 8 == 0 and plan.row_length >= max(len(e.ids) for e in examples)
    assert len(plan.rows) <= 2
    used, cells, shapes = 0, 0, []
    for step in range(200, 300):
        batch = pack([examples[i] for i in order.batch(step)], plan)
        used += (batch.inputs.segments > 0).sum()
        cells += batch.inputs.segments.size
        shapes.append(len(batch.inputs.ids))
    assert np.isin(shapes, plan.rows).mean() > 0.95
    assert len(set(shapes)) <= 3
    assert 1 - used / cells < padding
    # Padded to the longest of all, it would be several times that.
    assert used / (100 * 32 * plan.row_length) < 0.4


def test_rows_of_equal_examples_have_no_padding():
    examples = [make_example(128, seed=n) for n in range(20)]
    plan = plan_rows(examples, Order(20, 4))
    assert plan.rows[0] * plan.row_length == 4 * 128


def test_a_batch_beyond_the_plan_grows_instead_of_failing():
    plan = RowPlan(16, (2, 4), 2, slots=3, targets=4, types=False, branches=False)
    assert [plan.rows_for(n) for n in (1, 4, 5, 7)] == [2, 4, 6, 8]
    batch = pack([make_example(8) for _ in range(10)], plan)
    assert batch.inputs.ids.shape == (6, 16)
    assert (batch.index >= 0).sum() == 10


def test_an_empty_batch_and_an_oversized_example():
    plan = plan_rows([make_example(8, 2)], Order(1, 1))
    assert (pack([], plan).index == -1).all()
    for too_large, name in ((make_example(plan.row_length + 1), "tokens"), (make_example(8, 99), "targets")):
        with pytest.raises(InputError, match=f"^example 7 has .* {name}, a row"):
            pack([too_large], plan, index=[7])


def test_a_batch_carries_types_and_branches_only_where_there_are_some():
    flat = dataclasses.replace(make_example(6), types=constant(0, 6), branches=constant(0, 6))
    batch = pack([flat], plan_rows([flat], Order(1, 1)))
    assert batch.inputs.types is None and batch.inputs.branches is None
    typed = dataclasses.replace(flat, types=constant(1, 6))
    assert pack([flat], plan_rows([flat, typed], Order(2, 1))).inputs.types is not None


def test_a_wide_model_gets_long_rows_where_they_pad_less():
    examples = [make_example(int(n)) for n in np.random.default_rng(0).integers(340, 480, 400)]
    order = Order(400, 4, lengths=token_counts(examples))
    narrow, wide = (plan_rows(examples, order, width=width) for width in (256, 4096))
    assert narrow.row_length < 500 < wide.row_length
    assert wide.rows[0] * wide.row_length < 0.9 * narrow.rows[0] * narrow.row_length


def test_a_second_row_count_has_to_pay_for_its_compilation():
    examples = [make_example(length) for length in np.random.default_rng(0).integers(20, 60, 400)]
    order = Order(400, 8)
    free, dear = plan_rows(examples, order), plan_rows(examples, order, another=1e9)
    assert (len(free.rows), len(dear.rows)) == (2, 1)
    # One more that holds every batch, at little more padding.
    assert dear.rows[0] * dear.row_length <= 1.3 * free.rows[-1] * free.row_length
    batches = [pack([examples[i] for i in order.batch(step)], dear) for step in range(40)]
    assert {batch.inputs.ids.shape for batch in batches} == {(dear.rows[0], dear.row_length)}
