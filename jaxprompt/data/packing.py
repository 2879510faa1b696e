"""Examples of different lengths in rows of one static shape."""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxprompt.data.mixing import Mixture
from jaxprompt.data.order import Order, Parts
from jaxprompt.errors import InputError
from jaxprompt.text.encoded import Encoded, counting
from jaxprompt.types import Batch, Inputs

# A row of so many times the model's width spends as much on attention as on everything else. By FLOPs it is 6; the
# softmax is bound by memory and brings it down, to about this in the base-sized models.
ATTENTION_WIDTHS = 4 / 3
SIMULATED_BATCHES = 200
# Large batches hardly vary, so fewer tell as much; so do fewer when all that is asked is the better row length.
SIMULATED_EXAMPLES = 12800
COMPARED_EXAMPLES = 3200
ROW_LENGTHS_COMPARED = 30
# Slots and targets of a row cover this share of the rows; the packer starts another row for the others.
ROWS_COVERED = 0.98


@dataclasses.dataclass(frozen=True)
class RowPlan:
    """The static shapes of a data set's batches.

    Attributes:
      row_length: tokens in a row (of an encoder-decoder, in the decoder's).
      rows: the row counts to compile, ascending: the smallest that holds a batch is used.
      row_multiple: what row counts are multiples of (devices on the data axis).
      slots: the most examples in a row.
      targets: the most scored tokens in a row.
      types, branches: whether batches carry token types and branches.
      source_length: tokens in a row of the encoder of an encoder-decoder; else 0.
      held: which of `row_multiple` equal parts of a batch's rows are filled, those that a process's devices hold; the others
        stay empty. None: all.
    """

    row_length: int
    rows: tuple[int, ...]
    row_multiple: int
    slots: int
    targets: int
    types: bool
    branches: bool
    source_length: int = 0
    held: frozenset[int] | None = None

    def holds(self, row: int, rows: int) -> bool:
        """Whether a row of so many is filled."""
        return self.held is None or row * self.row_multiple // rows in self.held

    @property
    def limits(self) -> tuple[int, int, int]:
        """The most of each column of `_sizes` in a row."""
        if self.source_length:
            return self.source_length, self.targets, self.row_length
        return self.row_length, self.targets, 0

    def holding(self, examples: Sequence[Encoded]) -> "RowPlan":
        """Returns the plan, with longer rows where one of the examples is larger than it foresaw."""
        (length, targets, decoder), (types, branches) = _sizes(examples).max(axis=0).tolist(), _extras(examples)
        if self.source_length:
            source, length = _doubled(self.source_length, length), decoder
        else:
            source = 0
        return dataclasses.replace(
            self,
            row_length=_doubled(self.row_length, length),
            targets=_doubled(self.targets, targets),
            source_length=source,
            types=self.types or types,
            branches=self.branches or branches,
        )

    def rows_for(self, needed: int) -> int:
        """Returns the row count of a batch that needs so many rows: a planned one, or the next quarter above them."""
        planned = next((rows for rows in self.rows if needed <= rows), None)
        # Quarters, not single rows: each count met is a compilation.
        return planned or int(_round_up(needed, int(_round_up(self.rows[-1] / 4, self.row_multiple))))


def plan_rows(
    examples: Sequence[Encoded],
    order: Order | Mixture | Parts,
    *,
    row_multiple: int = 1,
    max_length: int | None = None,
    width: int = 768,
    another: float = 0.0,
) -> RowPlan:
    """Chooses static shapes by packing the first batches of an order.

    The row length and one or two row counts are those of least expected cost, for a cost of a token that grows with the
    length of its row. The larger row count holds every batch tried. A rare batch that needs more rows grows to another
    (see `RowPlan.rows_for`).

    Args:
      examples: every example to be packed, without its hoisted prefix.
      order: which of them make up each batch.
      max_length: the longest row to consider; by default 4 times the longest example, at least 256.
      width: of the model's hidden states; the wider, the less attention costs beside the rest.
      another: what a second row count costs, as so many tokens more in every batch.
    """
    sizes, batch_size = _sizes(examples), order.batch_size
    longest = int(sizes[:, 0].max())
    limit = max(max_length if max_length is not None else max(4 * longest, 256), longest)
    batches = int(np.clip(SIMULATED_EXAMPLES // batch_size, 8, SIMULATED_BATCHES))
    draws = [order.batch(step) for step in range(batches)]
    few = draws[: max(COMPARED_EXAMPLES // batch_size, 16)]
    extras = _extras(examples)
    # Whole numbers first: the series may start a little above the longest, and would lose 8 tokens a row.
    candidates = np.unique(_round_up(np.geomspace(longest, limit, ROW_LENGTHS_COMPARED).round(), 8)).tolist()
    how = sizes, row_multiple, extras, ATTENTION_WIDTHS * width, another
    length = min(candidates, key=lambda length: _plan_length(length, few, *how)[0])
    return _plan_length(length, draws, *how)[1]


def plan_separate(examples: Sequence[Encoded], batch_size: int, *, row_multiple: int = 1) -> RowPlan:
    """Plans rows of one example each, as long as the longest."""
    length, targets, decoder = _sizes(examples).max(axis=0)
    rows = int(_round_up(batch_size, row_multiple))
    return _row_plan(int(_round_up(length, 8)), (rows,), row_multiple, 1, int(targets), int(decoder), _extras(examples))


def _row_plan(length, rows, row_multiple, slots, targets, decoder, extras) -> RowPlan:
    """The plan of rows of `length` tokens, with `decoder` tokens beside them if those are the encoder's."""
    if not decoder:
        return RowPlan(length, rows, row_multiple, slots, targets, *extras)
    return RowPlan(decoder, rows, row_multiple, slots, targets, *extras, source_length=length)


def _plan_length(length, draws, sizes, row_multiple, extras, attended, another) -> tuple[float, RowPlan]:
    """Returns the expected cost of a batch in rows of one length, and the plan.

    Args:
      attended: the length at which attention costs as much as everything else.
      another: as in `plan_rows`.
    """
    free = [assign(sizes[draw], len(sizes), (length, *sizes[draw, 1:].sum(axis=0).tolist())) for draw in draws]
    rows = [draw[row] for packed, draw in zip(free, draws, strict=True) for row in packed]
    slots = int(np.quantile([len(row) for row in rows], ROWS_COVERED, method="higher"))
    covered = np.quantile([sizes[row, 1:].sum(axis=0) for row in rows], ROWS_COVERED, axis=0, method="higher")
    targets, decoder = _round_up(np.maximum(covered, sizes[:, 1:].max(axis=0)), 8).tolist()
    counts = np.array([len(assign(sizes[draw], slots, (length, targets, decoder))) for draw in draws])
    counts = _round_up(counts, row_multiple)
    large, tokens = int(counts.max()), length * (1 + length / attended) + decoder
    expected = {
        small: tokens * float(np.where(counts <= small, small, large).mean()) + (another if small < large else 0.0)
        for small in np.unique(counts).tolist()
    }
    small = min(expected, key=expected.get)
    return expected[small], _row_plan(
        length, tuple(sorted({small, large})), row_multiple, slots, targets, decoder, extras
    )


def assign(sizes: Int[np.ndarray, "examples 3"], slots: int, limits: tuple[int, int, int]) -> list[list[int]]:
    """Assigns examples to rows: longest first, each to the fullest row with room for it.

    Args:
      sizes: `[examples, 3]`, the tokens, targets and decoder's tokens of each.
      slots: the most examples in a row.
      limits: the most of each column in a row.

    Returns:
      Per row, the numbers of its examples, ascending; rows in the order of their first example.
    """
    most, most_targets, most_decoder = limits
    # Plain numbers: a row is decided example by example, where numpy would take most of the time.
    table = sizes.tolist()
    rows: list[list[int]] = []
    targets_left: list[int] = []
    decoder_left: list[int] = []
    # Rows with room for another example, by the tokens they have left; ties go to the older row.
    open_rows: list[tuple[int, int]] = []
    for i in np.argsort(-sizes[:, 0], kind="stable").tolist():
        length, targets, decoder = table[i]
        at = bisect.bisect_left(open_rows, (length, 0))
        while at < len(open_rows):
            _, row = open_rows[at]
            if targets <= targets_left[row] and decoder <= decoder_left[row]:
                break
            at += 1
        if at < len(open_rows):
            left, row = open_rows.pop(at)
        else:
            left, row = most, len(rows)
            rows.append([])
            targets_left.append(most_targets)
            decoder_left.append(most_decoder)
        rows[row].append(i)
        targets_left[row] -= targets
        decoder_left[row] -= decoder
        if len(rows[row]) < slots:
            bisect.insort(open_rows, (left - length, row))
    return sorted(sorted(row) for row in rows)


def pack(
    examples: Sequence[Encoded], plan: RowPlan, *, num_words: int = 1, index: Sequence[int] | None = None
) -> Batch:
    """Packs examples into a batch of numpy arrays, as far as the plan holds its rows. An example is never split; the result depends on nothing else.

    Args:
      num_words: candidates per example (`Objective.num_words`).
      index: each example's number in its data set; by default its number here.

    Raises:
      InputError: an example is larger than a row of the plan.
    """
    index = range(len(examples)) if index is None else index
    sizes = _sizes(examples)
    for name, size, most in zip(("tokens", "targets", "decoder tokens"), sizes.T, plan.limits, strict=True):
        if len(size) and size.max() > most:
            number = index[int(size.argmax())]
            raise InputError(f"example {number} has {size.max()} {name}, a row {most} (plan the rows with it included)")
    packed = assign(sizes, plan.slots, plan.limits)
    rows = plan.rows_for(len(packed))

    ids, positions, segments, types, branches = np.zeros((5, rows, plan.row_length), np.int32)
    target_at, target_ids, target_group = np.zeros((3, rows, plan.targets), np.int32)
    target_weight = np.zeros((rows, plan.targets), np.float32)
    mixes = any(example.mix_ids is not None for example in examples)
    mix_ids, mix = ids.copy(), np.zeros(ids.shape, np.float32)
    reads, source_reads = (any(getattr(one, name) is not None for one in examples) for name in ("read", "source_read"))
    read, source_read = np.zeros(ids.shape, bool), np.zeros((rows, plan.source_length), bool)
    pool_at = np.zeros((rows, plan.slots), np.int32)
    numbers = np.full((rows, plan.slots), -1, np.int32)
    answers = _empty_answers(examples, numbers.shape)
    source_ids, source_positions, source_segments, source_owners = np.zeros((4, rows, plan.source_length), np.int32)
    owns = bool(examples) and examples[0].owner is not None
    owners = np.zeros(ids.shape, np.int32)
    for r, row in enumerate(packed):
        if not plan.holds(r, rows):
            continue
        start = scored = begun = 0
        next_segment = plan.slots + 1
        for slot, i in enumerate(row):
            example = examples[i]
            here = slice(start, start + len(example.ids))
            ids[r, here] = example.ids
            positions[r, here] = example.positions
            extra = int(example.segments[-1]) - 1
            if extra:
                # Slots come first, the segments beyond the first of an example behind them all.
                renumbered = np.concatenate([[slot + 1], np.arange(next_segment, next_segment + extra)])
                segments[r, here] = renumbered[example.segments - 1]
                next_segment += extra
            else:
                segments[r, here] = slot + 1
            if plan.types:
                types[r, here] = example.types
            if plan.branches:
                branches[r, here] = example.branches
            if mixes:
                mix_ids[r, here], mix[r, here] = example.mix_ids, example.mix
            if example.read is not None:
                read[r, here] = example.read
            there = slice(scored, scored + len(example.target_ids))
            target_at[r, there] = example.target_at + start
            target_ids[r, there] = example.target_ids
            target_group[r, there] = example.target_group + slot * num_words
            target_weight[r, there] = 1.0
            pool_at[r, slot] = example.pool_at + start
            for name, value in example.answers.items():
                answers[name][r, slot] = value
            numbers[r, slot] = index[i]
            if owns:
                owners[r, here] = example.owner
            start, scored = here.stop, there.stop
            if example.source is not None:
                source = slice(begun, begun + len(example.source))
                source_ids[r, source] = example.source
                source_positions[r, source] = counting(len(example.source))
                source_segments[r, source] = slot + 1
                if owns:
                    source_owners[r, source] = example.owner
                if example.source_read is not None:
                    source_read[r, source] = example.source_read
                begun = source.stop
    inputs = Inputs(
        ids=ids,
        positions=positions,
        segments=segments,
        types=types if plan.types else None,
        branches=branches if plan.branches else None,
        mix_ids=mix_ids if mixes else None,
        mix=mix if mixes else None,
        owners=owners if owns else None,
        read=read if reads else None,
    )
    source_owners, source_read = source_owners if owns else None, source_read if source_reads else None
    source = Inputs(source_ids, source_positions, source_segments, owners=source_owners, read=source_read)
    return Batch(
        inputs=inputs,
        target_at=target_at,
        target_ids=target_ids,
        target_group=target_group,
        target_weight=target_weight,
        pool_at=pool_at,
        answers=answers,
        index=numbers,
        source=source if plan.source_length else None,
    )


def pack_separate(
    examples: Sequence[Encoded],
    *,
    num_words: int = 1,
    index: Sequence[int] | None = None,
    plan: RowPlan | None = None,
) -> Batch:
    """Puts each example in a row of its own, row i holding example i. `plan` is one of `plan_separate`."""
    plan = plan or plan_separate(examples, len(examples))
    return pack(examples, plan, num_words=num_words, index=index)


def _empty_answers(examples: Sequence[Encoded], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Arrays for the examples' answers that hold none yet: -1 for whole numbers, NaN for others."""
    first = examples[0].answers if examples else {}
    return {
        name: np.full(shape, np.nan, np.float32) if isinstance(value, float) else np.full(shape, -1, np.int32)
        for name, value in first.items()
    }


def token_counts(examples: Sequence[Encoded]) -> Int[np.ndarray, " examples"]:
    """Returns the tokens of each example, those of encoder and decoder together."""
    sizes = _sizes(examples)
    return sizes[:, 0] + sizes[:, 2]


def _sizes(examples: Sequence[Encoded]) -> np.ndarray:
    """Tokens, targets and decoder tokens of each `[examples, 3]`; of an encoder-decoder the tokens are the encoder's."""
    sizes = [
        (len(e.ids), len(e.target_ids), 0) if e.source is None else (len(e.source), len(e.target_ids), len(e.ids))
        for e in examples
    ]
    return np.array(sizes, int).reshape(-1, 3)


def _extras(examples: Sequence[Encoded]) -> tuple[bool, bool]:
    return any(e.types.any() for e in examples), any(e.branches.any() for e in examples)


def _doubled(size: int, least: int) -> int:
    """`size`, twice, four times as much and so on: what is first no less than `least`."""
    while size < least:
        size = 2 * size or least
    return size


def _round_up(value, multiple: int):
    return np.ceil(np.asarray(value) / multiple).astype(int) * multiple
