"""One encoded example."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

# Answers of an example into which another is mixed: the other's label, and its share.
MIX_LABEL, MIX_SHARE = "mix_label", "mix_share"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of one example and what is scored in them. Indices count from the first id.

    Attributes:
      ids: an id `>= vocab_size` is row `id - vocab_size` of the soft prompt.
      segments: from 1; more than one only for masked label words that differ in length.
      positions: absolute; they restart in each segment, and each branch continues the trunk's.
      types: BERT's token types.
      branches: 0 for the trunk, from 1 for the alternatives that continue it.
      target_at: the index of the token whose hidden state predicts the target (the mask, in a masked model).
      target_ids: the token predicted there.
      target_group: the number of the label word the token belongs to; 0 without label words.
      answers: what the objective compares with, as in `Batch.answers`.
      pool_at: the index of the pooled token; 0 where nothing is pooled.
      truncated: whether field text was cut to fit.
      mix_ids, mix: as in `Inputs`; None: nothing is mixed.
      source: the encoder's ids, of an encoder-decoder, whose decoder all of the above is about; of a decoder, the ids
        ahead of the above, where these are computed by themselves; else None.
      owner: whose prefix it sees, as `Inputs.owners`; None: there are no owners.
      read, source_read: which tokens of either the prompt is made from, as `Inputs.read`; None: it is made from none.
    """

    ids: Int32[np.ndarray, "length"]
    segments: Int32[np.ndarray, "length"]
    positions: Int32[np.ndarray, "length"]
    types: Int32[np.ndarray, "length"]
    branches: Int32[np.ndarray, "length"]
    target_at: Int32[np.ndarray, "targets"]
    target_ids: Int32[np.ndarray, "targets"]
    target_group: Int32[np.ndarray, "targets"]
    answers: dict[str, float | int] = dataclasses.field(default_factory=dict)
    pool_at: int = 0
    truncated: bool = False
    mix_ids: Int32[np.ndarray, "length"] | None = None
    mix: Float32[np.ndarray, "length"] | None = None
    source: Int32[np.ndarray, "source"] | None = None
    owner: int | None = None
    read: Bool[np.ndarray, "length"] | None = None
    source_read: Bool[np.ndarray, "source"] | None = None


def side_by_side(first: Encoded, second: Encoded, groups: int) -> Encoded:
    """One example of two, which do not see each other; the second's groups are counted on behind `groups` of the first's."""
    behind = {
        "segments": second.segments + first.segments.max(),
        "target_at": second.target_at + len(first.ids),
        "target_group": second.target_group + groups,
    }
    names = ("ids", "segments", "positions", "types", "branches", "target_at", "target_ids", "target_group")
    parts = {name: np.concatenate([getattr(first, name), behind.get(name, getattr(second, name))]) for name in names}
    return dataclasses.replace(first, **{name: int32(part) for name, part in parts.items()})


def segment_starts(segments: Int32[np.ndarray, "length"]) -> Int[np.ndarray, "starts"]:
    """Where segments start, none of which sees another."""
    return np.flatnonzero(np.diff(segments, prepend=0))


def int32(values) -> Int32[np.ndarray, "length"]:
    return np.asarray(values, np.int32)


# Most examples of a data set share these, so that a long one holds little beyond its ids.
@functools.lru_cache(maxsize=4096)
def constant(value: int, length: int) -> Int32[np.ndarray, "length"]:
    """A shared read-only array of one value."""
    array = np.full(length, value, np.int32)
    array.setflags(write=False)
    return array


@functools.lru_cache(maxsize=4096)
def counting(length: int) -> Int32[np.ndarray, "length"]:
    """A shared read-only array 0, 1, 2, ..."""
    array = np.arange(length, dtype=np.int32)
    array.setflags(write=False)
    return array
