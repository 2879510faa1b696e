"""The leading part that every example of a causal template shares, computed once instead of in each example."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded, int32


def hoist_length(encoder: RowEncoder, examples: Sequence[Encoded]) -> int:
    """Returns how many leading ids can be computed once for all the examples.

    Every example has exactly these ids in front, and everything it is scored at behind them. 0 for a masked model,
    whose soft tokens see the example.
    """
    # The first token scored comes first in `target_at`, branches included: they start at the end of the trunk.
    first = (example.target_at[0] if len(example.target_at) else example.pool_at for example in examples)
    return encoder.shared_head(example.ids[: at + 1] for example, at in zip(examples, first, strict=True))


def drop_prefix(encoded: Encoded, length: int) -> Encoded:
    """Returns an example without its first `length` ids; positions stay absolute."""
    if length == 0:
        return encoded
    whole = ("ids", "segments", "positions", "types", "branches")
    return dataclasses.replace(
        encoded,
        **{name: getattr(encoded, name)[length:] for name in whole},
        target_at=encoded.target_at - length,
        pool_at=max(encoded.pool_at - length, 0),
    )


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
