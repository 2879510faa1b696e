"""The arrays that pass between data, methods, models and the train step."""

from flax import struct
from jaxtyping import Array, Float, Int


class Prefix(struct.PyTreeNode):
    """Per-layer keys and values that every segment of every row sees.

    Prompt tuning computes it once per step, prefix tuning learns it, generation caches it.

    Attributes:
      keys, values: `[layers, prefix, kv_heads, head_dim]`; keys are as attention uses them (rotary already applied).
      length: the position at which the tokens after the prefix start. Not always the number of keys: a prefix
        learned for an encoder leaves the positions of the text alone.
    """

    keys: Float[Array, "layers prefix kv_heads head_dim"]
    values: Float[Array, "layers prefix kv_heads head_dim"]
    length: int = struct.field(pytree_node=False)


def prefix_length(prefix: Prefix | None) -> int:
    """Returns the position at which the tokens after a prefix start; 0 without one."""
    return 0 if prefix is None else prefix.length


class Inputs(struct.PyTreeNode):
    """Packed rows: what a backbone reads.

    A row holds several segments. Token q sees token k of its row when their segments are equal, when
    `branches[k]` is 0 or equals `branches[q]`, and, in a causal backbone, when k is not after q in the row. Every
    token sees the whole prefix. Segment 0 is padding.

    Attributes:
      ids: an id `>= vocab_size` is row `id - vocab_size` of the soft prompt.
      positions: absolute, prefix included; they restart in each segment, and each branch continues the trunk's. The
        tokens of a segment stand side by side, so that without branches positions advance as places in the row do.
      types: token types (BERT's sentence A and B); None means all 0.
      branches: alternatives that share a segment's trunk (branch 0) and do not see each other; None means all 0.
    """

    ids: Int[Array, "rows seq"]
    positions: Int[Array, "rows seq"]
    segments: Int[Array, "rows seq"]
    types: Int[Array, "rows seq"] | None = None
    branches: Int[Array, "rows seq"] | None = None


class Batch(struct.PyTreeNode):
    """One batch of packed examples with what is scored in it. All indices are local to the row.

    An example occupies one slot of its row (slots are numbered from 0). It is one segment (`slot + 1`), except for
    masked verbalizers whose words differ in length, where it is several segments. `positions` do not yet count a
    learned prefix: the train step adds its length.

    Attributes:
      target_at: where in the row the hidden state lies that predicts the target (0 where unused).
      target_ids: the token id to be predicted there.
      target_group: `slot * num_words + word` of the candidate the token belongs to (num_words is 1 without a
        verbalizer).
      target_weight: 1.0, or 0.0 where unused.
      pool_at: per slot, the position of its pooled token (first token of an encoder's text, last of a decoder's).
      labels: per slot, the class of the example, or -1.
      index: per slot, the example's number in its data set, or -1 in an empty slot.
      source: the encoder's rows, of an encoder-decoder, whose decoder all of the above is about: an example has the
        same row and the same segment number in both.
    """

    inputs: Inputs
    target_at: Int[Array, "rows targets"]
    target_ids: Int[Array, "rows targets"]
    target_group: Int[Array, "rows targets"]
    target_weight: Float[Array, "rows targets"]
    pool_at: Int[Array, "rows slots"]
    labels: Int[Array, "rows slots"]
    index: Int[Array, "rows slots"]
    source: Inputs | None = None
