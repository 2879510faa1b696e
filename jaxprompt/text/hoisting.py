"""The leading part that every example of a causal template shares, computed once instead of in each example."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int32

from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded, int32, segment_starts


def hoist_length(encoder: RowEncoder, examples: Sequence[Encoded]) -> int:
    """Returns how many leading ids can be computed once for all the examples.

    Every segment of every example has exactly these ids in front, and everything it is scored at behind them. 0 for a
    masked model, whose soft tokens see the example.
    """
    return encoder.shared_head(context for example in examples for context in _contexts(example))


def shared_length(parts: Sequence[Sequence[int]]) -> int:
    """How many leading ids all of them have."""
    together = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*parts, strict=False))
    return sum(1 for _ in together)


def _contexts(example: Encoded) -> Iterator[Int32[np.ndarray, "context"]]:
    """The ids of each segment up to the first that is scored."""
    if not len(example.target_at):
        yield example.ids[: example.pool_at + 1]
        return
    for start in segment_starts(example.segments):
        yield example.ids[start : example.target_at[example.target_at >= start].min() + 1]


def drop_prefix(encoded: Encoded, length: int) -> Encoded:
    """Returns an example without the first `length` ids of each of its segments; positions stay absolute."""
    if length == 0:
        return encoded
    keep = np.ones(len(encoded.ids), bool)
    keep[(segment_starts(encoded.segments)[:, None] + np.arange(length)).ravel()] = False
    place = np.cumsum(keep) - 1
    whole = ["ids", "segments", "positions", "types", "branches", *(["read"] if encoded.read is not None else [])]
    return dataclasses.replace(
        encoded,
        **{name: getattr(encoded, name)[keep] for name in whole},
        target_at=int32(place[encoded.target_at]),
        pool_at=max(int(place[encoded.pool_at]), 0),
    )


def split_ahead(examples: Sequence[Encoded], vocab_size: int) -> list[Encoded] | None:
    """Returns the examples with what stands before their first soft token apart, as `Encoded.source`.

    None where that cannot be: an example has no soft token, several segments, something that is scored before it, or a prompt
    that depends on it.
    """
    found = []
    for example in examples:
        soft = example.ids >= vocab_size
        first = int(soft.argmax())
        scored = example.target_at.min() if len(example.target_at) else example.pool_at
        with_text = example.mix_ids is not None or example.read is not None
        if not soft.any() or int(example.segments[-1]) > 1 or scored < first or with_text:
            return None
        behind = ("ids", "segments", "positions", "types", "branches")
        found.append(
            dataclasses.replace(
                example,
                **{name: getattr(example, name)[first:] for name in behind},
                target_at=example.target_at - first,
                pool_at=max(example.pool_at - first, 0),
                source=example.ids[:first],
            )
        )
    return found


def split_constant(
    ids: Sequence[int] | Int32[np.ndarray, "head"], vocab_size: int
) -> tuple[Int32[np.ndarray, "hard"], Int32[np.ndarray, "rest"]]:
    """Splits hoisted ids before the first soft token.

    The first part depends on nothing that is trained: its keys and values need no backward pass.
    """
    ids = int32(ids)
    soft = ids >= vocab_size
    first = int(soft.argmax()) if soft.any() else len(ids)
    return ids[:first], ids[first:]
