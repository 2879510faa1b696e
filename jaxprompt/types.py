"""The values that pass between data, methods, models, objectives and the train step: read this first."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped


class Prefix(struct.PyTreeNode):
    """Per-layer keys and values that every segment of every row sees, or that of each owner those of its own see.

    Prompt tuning computes it once per step, prefix tuning learns it, generation caches it.

    Attributes:
      keys, values: `[layers, prefix, kv_heads, head_dim]`; keys are as attention uses them (rotary already applied).
      length: the position at which the tokens after the prefix start. Not always the number of keys: a prefix
        learned for an encoder leaves the positions of the text alone. Of several owners, the largest of `lengths`.
      owners: whose each key is, see `Inputs.owners`; None: everyone's.
      places: the position of each key; None: they count from 0.
      lengths: where the tokens after the prefix start, by owner; None: at `length`.
      slots: which keys are those of late soft rows, see `Late`; None: none are.
    """

    keys: Float[Array, "layers prefix kv_heads head_dim"]
    values: Float[Array, "layers prefix kv_heads head_dim"]
    length: int = struct.field(pytree_node=False)
    owners: Int[Array, " prefix"] | None = None
    places: Int[Array, " prefix"] | None = None
    lengths: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    slots: Bool[Array, " prefix"] | None = None

    @property
    def positions(self) -> Int[Array, " prefix"]:
        """The position of each key."""
        return jnp.arange(self.keys.shape[1]) if self.places is None else self.places

    def cast(self, dtype: Any) -> "Prefix":
        """The keys and values in another type."""
        return self.replace(keys=self.keys.astype(dtype), values=self.values.astype(dtype))

    def starts(self, owners: Int[Array, "*tokens"] | None) -> Int[Array, "*tokens"] | int:
        """Where the tokens of these owners start."""
        return self.length if self.lengths is None else jnp.asarray(self.lengths)[owners]


def prefix_length(prefix: Prefix | None) -> int:
    """Returns the position at which the tokens after a prefix start; 0 without one."""
    return 0 if prefix is None else prefix.length


class Late(struct.PyTreeNode):
    """Soft rows that take the places of their slots' hidden states ahead of a layer; below it nothing sees the slots.

    Attributes:
      rows: of the width of the hidden states.
      layer: counted from 0; so many layers know nothing of them.
    """

    rows: Float[Array, "prompt embed"]
    layer: int = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return self.rows.shape


class Delta(struct.PyTreeNode):
    """A learned change of one parameter, or of what one weight of every layer gives.

    A product is then `((x * in_factor) (W + shift)^T + bias + (x a^T) b^T) * factor`.

    Attributes:
      a, b: a path of low rank; None: there is none.
      factor, in_factor: on outputs and inputs; None: 1.
      shift: added to the parameter, which may be any of the model, and has its shape; None: 0.
      owners: of a change of several owners, each of which changes its own tokens, whose each rank of the path is; the factors
        then have an axis of owners behind that of layers, and there is no shift.
    """

    a: Float[Array, "layers rank in"] | None = None
    b: Float[Array, "layers out rank"] | None = None
    factor: Float[Array, "layers *owners out"] | None = None
    in_factor: Float[Array, "layers *owners in"] | None = None
    shift: Float[Array, "..."] | None = None
    owners: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)


class Gated(struct.PyTreeNode):
    """Learned rows that every token sees beside everything else: by a softmax of their own, times a gate per head.

    The last so many layers have them. Keys and values are what a layer's own projections make of its rows, with no
    position, so that the text's positions stay as they are.

    Attributes:
      rows: of the width of the hidden states.
      gate: what a head's attention to them is multiplied by before it is added.
    """

    rows: Float[Array, "layers prefix embed"]
    gate: Float[Array, "layers heads"]


class Generator(struct.PyTreeNode):
    """What is added to the soft rows of each example, of the mean `m` of its read tokens' embeddings: row `i` gets
    `up[i] gelu(down m + bias)`."""

    down: Float[Array, "hidden embed"]
    bias: Float[Array, " hidden"]
    up: Float[Array, "prompt embed hidden"]


class Mixture(struct.PyTreeNode):
    """What is added to the soft rows of each example, of the largest number `x` of each of its read tokens' embeddings: the
    mean of `prompts`, by weights `softmax_j(max_i prompts[j, i] . norm(up silu(down x)) / temperature)`."""

    prompts: Float[Array, "prompts prompt embed"]
    down: Float[Array, "hidden embed"]
    up: Float[Array, "embed hidden"]
    scale: Float[Array, " embed"]
    bias: Float[Array, " embed"]
    temperature: Float[Array, " 1"]


class Generators(struct.PyTreeNode):
    """Those of several owners, each of which adds to its owner's soft rows.

    Attributes:
      starts: the first of those rows.
    """

    parts: tuple[Generator | Mixture, ...]
    starts: tuple[int, ...] = struct.field(pytree_node=False)


class Conditioning(struct.PyTreeNode):
    """What a backbone is conditioned on: what a method makes of its parameters, and all that anything else knows of it.

    Attributes:
      soft: the soft-token table; None: there is none.
      prefix: keys and values that come before everything else. Of an encoder-decoder, the decoder's.
      source_prefix: the encoder's, of an encoder-decoder.
      deltas: changes of weights, by the paths of parameters.
      gated: rows behind a gate, by the paths of the attentions that see them.
      change: what is added to the embeddings of an input text's tokens, by their numbers, see `Inputs.text`; of several
        owners, with a leading axis of these.
      generator: what the soft rows get of the example that they stand in.
      soft_layer: the layer ahead of which the soft rows enter, see `Late`; None: as the words do.
    """

    soft: Float[Array, "prompt embed"] | None = None
    prefix: Prefix | None = None
    source_prefix: Prefix | None = None
    deltas: dict[str, Delta] | None = None
    gated: dict[str, Gated] | None = None
    change: Float[Array, "*owners positions embed"] | None = None
    generator: Generator | Mixture | Generators | None = None
    soft_layer: int | None = struct.field(pytree_node=False, default=None)

    @property
    def soft_rows(self) -> Float[Array, "prompt embed"] | Late | None:
        """The soft rows as a backbone takes them, which says where they enter."""
        return self.soft if self.soft_layer is None else Late(self.soft, self.soft_layer)

    @property
    def reaches_hard_text(self) -> bool:
        """Whether text before the first soft token comes out otherwise than in the bare model.

        Soft rows are seen from where they stand on. Everything else is taken to change all text, so that what is added
        here one day cannot be forgotten.
        """
        rows = ("soft", "soft_layer", "generator")
        others = (field.name for field in dataclasses.fields(self) if field.name not in rows)
        return any(getattr(self, name) is not None for name in others)


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
      mix_ids, mix: ids whose embeddings are mixed into those of `ids`, and their share, 0 to 1; None: nothing is mixed.
      text: which token of its example's input text each is, counted from 1, soft tokens left out; 0: none, as soft tokens,
        targets and padding are. None: nothing depends on it.
      owners: whose prompt each token is under, where there are prompts of several owners, counted from 0.
      read: which tokens the soft rows of their segment depend on. None: they depend on none.
    """

    ids: Int[Array, "rows seq"]
    positions: Int[Array, "rows seq"]
    segments: Int[Array, "rows seq"]
    types: Int[Array, "rows seq"] | None = None
    branches: Int[Array, "rows seq"] | None = None
    mix_ids: Int[Array, "rows seq"] | None = None
    mix: Float[Array, "rows seq"] | None = None
    text: Int[Array, "rows seq"] | None = None
    owners: Int[Array, "rows seq"] | None = None
    read: Bool[Array, "rows seq"] | None = None


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
      answers: per slot, what the objective compares with, by name: whole numbers, -1 where there is none (such as
        "label", the class of the example), or fractions, NaN where there is none.
      index: per slot, the example's number in its data set, or -1 in an empty slot.
      source: the encoder's rows, of an encoder-decoder, whose decoder all of the above is about: an example has the
        same row and the same segment number in both. Of a decoder, what stands before its first soft token, where that
        is computed by itself.
      ahead: what was computed before of the `source`: a decoder's keys and values `[rows, ahead, layers, kv_heads, head_dim]`
        of it, or an encoder's hidden states `[rows, ahead, embed]`.
      lead: ids that stand before all rows, computed once, behind `Forward.hoisted`: -1 at the end is nothing. Of
        populations with prompts of several lengths alone; and `keys`: how many keys of a learned prefix there are.
    """

    inputs: Inputs
    target_at: Int[Array, "rows targets"]
    target_ids: Int[Array, "rows targets"]
    target_group: Int[Array, "rows targets"]
    target_weight: Float[Array, "rows targets"]
    pool_at: Int[Array, "rows slots"]
    answers: dict[str, Shaped[Array, "rows slots"]]
    index: Int[Array, "rows slots"]
    source: Inputs | None = None
    ahead: tuple[Float[Array, "rows ahead ..."], ...] | None = None
    lead: Int[Array, " lead"] | None = None
    keys: Int[Array, ""] | None = None


def is_stacked(batch: Batch) -> bool:
    """Whether a batch is several, one for each member of a population, by a leading axis of all its arrays."""
    return batch.inputs.ids.ndim > 2


class Ahead(struct.PyTreeNode):
    """What stands before a decoder's rows: keys and values of the text ahead of each segment, computed by themselves.

    Attributes:
      keys, values: as attention uses them.
      segments: a token sees what is ahead of its own segment.
      positions: absolute.
    """

    keys: Float[Array, "layers rows ahead kv_heads head_dim"]
    values: Float[Array, "layers rows ahead kv_heads head_dim"]
    segments: Int[Array, "rows ahead"]
    positions: Int[Array, "rows ahead"]


class Scores(struct.PyTreeNode):
    """What one batch scored.

    Attributes:
      losses: per slot, the sum of the losses of everything scored in it.
      counts: per slot, how many things were scored: target tokens, or examples, by their weights.
      outputs: per slot, by name, what metrics and predictions are made of (such as "logits" per class).
    """

    losses: Float[Array, "rows slots"]
    counts: Float[Array, "rows slots"]
    outputs: dict[str, Float[Array, "rows slots ..."]]

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of all losses."""
        return self.losses.sum()

    @property
    def count(self) -> Float[Array, ""]:
        """How much was scored: `loss / count` is the mean."""
        return self.counts.sum()
