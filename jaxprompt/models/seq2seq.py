"""The encoder-decoder: T5 (Raffel et al. 2020, arXiv:1910.10683), BART (Lewis et al. 2019, arXiv:1910.13461).

Suffixes name axes as in `ops.attention`.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import constrain_rows
from jaxprompt.models.block import Block, BlockConfig, LayerInputs, make_norm
from jaxprompt.models.cache import Cache
from jaxprompt.models.late import Entrance, entrance, hiding, run_with
from jaxprompt.models.layers import Table, embed_ids, embed_inputs, linear
from jaxprompt.models.precision import as_asked, exact
from jaxprompt.models.relative import RelativePositions
from jaxprompt.models.stack import is_last, run_layers
from jaxprompt.ops.views import View, owned, visibility
from jaxprompt.types import Inputs, Late, Prefix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """What an encoder-decoder family is.

    Attributes:
      encoder, decoder: the layers of each; the decoder's have a cross-attention.
      max_positions: longest input of either, prompt included.
      relative: None means learned absolute positions.
      embed_scale: factor on word embeddings, not on soft prompts.
      embed_norm: whether there is a norm behind the embeddings of each.
      final_norm: whether there is a norm behind the last layer of each.
      start_id: the token that every decoder input starts with.
      head: shares the word embedding, has a weight of its own, or is absent.
      head_bias: whether the head has a bias.
      logit_scale: factor on the vocabulary logits.
    """

    encoder: BlockConfig
    decoder: BlockConfig
    vocab_size: int
    max_positions: int
    relative: RelativePositions | None
    embed_norm: bool
    final_norm: bool
    start_id: int
    head: Literal["tied", "own", "none"]
    embed_scale: float = 1.0
    head_bias: bool = False
    logit_scale: float = 1.0

    @property
    def num_layers(self) -> int:
        """Of the decoder, as all that follows."""
        return self.decoder.num_layers

    @property
    def num_kv_heads(self) -> int:
        return self.decoder.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.decoder.head_dim

    @property
    def hidden_size(self) -> int:
        return self.decoder.hidden_size

    @property
    def soft_size(self) -> int:
        """Width of a soft prompt's rows, on either side."""
        return self.decoder.hidden_size

    @property
    def output_size(self) -> int:
        """Width of the hidden states that the model returns."""
        return self.decoder.hidden_size


class Memory(struct.PyTreeNode):
    """What the decoder reads of the encoder's rows.

    Attributes:
      keys, values: of the cross-attention, `[layers, rows, seq, kv_heads, head_dim]`.
      segments: a decoder token sees the encoder tokens of its own segment.
    """

    keys: Float[Array, "layers rows seq kv_heads head_dim"]
    values: Float[Array, "layers rows seq kv_heads head_dim"]
    segments: Int[Array, "rows seq"]

    def repeat(self, times: int) -> "Memory":
        """Each row so many times, one after the other."""
        keys, values = jnp.repeat(self.keys, times, axis=1), jnp.repeat(self.values, times, axis=1)
        return Memory(keys, values, jnp.repeat(self.segments, times, axis=0))


class Stack(nn.Module):
    """The encoder or the decoder, behind the word embedding."""

    config: Seq2SeqConfig
    block: BlockConfig
    dtype: Any
    remat: str
    mesh: Mesh | None
    attention: str

    def setup(self):
        cfg = self.config
        if cfg.relative is None:
            self.position = Table(cfg.max_positions, self.block.hidden_size, None, self.dtype)
        else:
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "heads"))
            shape = (cfg.relative.buckets, self.block.num_heads)
            self.relative_bias = self.param("relative_bias", init, shape, self.dtype)
        if cfg.embed_norm:
            self.embed_norm = make_norm(self.block, self.dtype)
        self.layers = Block(self.block, self.dtype, self.attention, self.mesh)
        if cfg.final_norm:
            self.final_norm = make_norm(self.block, self.dtype)

    def view(self, inputs: Inputs, prefix: Prefix | None) -> View:
        """What the tokens of packed rows see."""
        causal = self.block.cross
        view = View(visibility(inputs, causal), causal=causal)
        view = owned(view, inputs.owners, None if prefix is None else prefix.owners)
        at = inputs.positions
        if inputs.branches is None:
            # Within a segment positions differ as places in the row do, so that one bias serves all rows.
            at = jnp.arange(at.shape[1])[None]
        return self.biased(view, at, at, inputs.positions, prefix)

    def biased(self, view: View, queries, keys, positions, prefix: Prefix | None) -> View:
        """Adds the relative bias of `queries` to `keys`; `positions` of the queries say how far the prefix is."""
        relative, bidirectional = self.config.relative, not self.block.cross
        if relative is None:
            return view
        view = view.replace(row_bias=relative.bias(self.relative_bias, queries, keys, bidirectional))
        if prefix is None or not prefix.length:  # an encoder's prefix takes no positions
            return view
        ahead = prefix.positions[None]
        return view.replace(prefix_bias=relative.bias(self.relative_bias, positions, ahead, bidirectional))

    def memory(self, hidden: Float[Array, "rows seq embed"], owners: Int[Array, "rows seq"] | None = None):
        """Every layer's cross-attention keys and values `[layers, rows, seq, kv_heads, head_dim]`."""

        def step(block, carry, prefix_kv, layer):
            return carry, block.cross_keys_values(hidden, owners)

        return run_layers(self.layers, step, (), None, self.block.num_layers, "none")[1]

    @jax.named_scope("embed")
    def enter(self, x_rse: Float[Array, "rows seq embed"], inputs: Inputs) -> Float[Array, "rows seq embed"]:
        """What the first layer is given, of word embeddings."""
        if self.config.relative is None:
            x_rse = x_rse + self.position(inputs.positions)
        if self.config.embed_norm:
            x_rse = self.embed_norm(x_rse)
        return x_rse.astype(self.block.stream_dtype(self.dtype))

    def __call__(
        self,
        x_rse,
        given: LayerInputs,
        prefix: Prefix | None = None,
        memory: Memory | None = None,
        keep_keys_values: bool = False,
        late: Entrance | None = None,
    ):
        """Returns hidden states after the final norm, the updated cache, and all layers' (keys, values) or None.

        Args:
          x_rse: from `enter`.
          given: what all layers are given alike.
          prefix, memory: of these each layer has a part of its own.
          late: where late rows enter.
        """
        num_layers, apart = self.block.num_layers, given.at is not None
        if prefix is not None:
            prefix = prefix.cast(self.dtype)

        def run(carry, given, within):
            def step(block, carry, prefix_kv, layer):
                x_rse, cache = carry
                read = None if memory is None else (memory.keys[layer], memory.values[layer])
                x_rse, keys_values, cache = block(
                    x_rse,
                    given.replace(
                        prefix=prefix_kv, cache=cache, memory=read, layer=layer, is_last=is_last(layer, num_layers)
                    ),
                )
                return (constrain_rows(x_rse, self.mesh), cache), keys_values if keep_keys_values else None

            return run_layers(self.layers, step, carry, prefix, num_layers, self.remat, apart, within)

        carry = constrain_rows(x_rse, self.mesh), given.cache
        (x_rse, cache), kept = run_with(run, carry, given, late, num_layers)
        return self.final_norm(x_rse) if self.config.final_norm else x_rse, cache, kept

    def late(self, soft, inputs: Inputs, given: LayerInputs) -> Entrance | None:
        """Where late rows enter that stand in `inputs`, behind what the cache holds."""
        cache = given.cache

        def below(slots):
            places = None if cache is None else cache.slots(inputs.ids.shape[1])
            return given.replace(view=hiding(given.view, slots if cache is None else cache.late, None, places))

        return entrance(soft, inputs.ids, self.config.vocab_size, below)


class Seq2Seq(nn.Module):
    """Token ids of both sides to hidden states and logits of the decoder; attributes as in `Decoder`."""

    config: Seq2SeqConfig
    dtype: Any = jnp.float32
    remat: str = "dots"
    mesh: Mesh | None = None
    attention: str = "xla"
    matmul_precision: str = "highest"

    causal = False

    def setup(self):
        cfg = self.config
        self.word = Table(cfg.vocab_size, cfg.hidden_size, "vocab", self.dtype)
        self.encoder = Stack(cfg, cfg.encoder, self.dtype, self.remat, self.mesh, self.attention)
        self.decoder = Stack(cfg, cfg.decoder, self.dtype, self.remat, self.mesh, self.attention)
        if cfg.head == "own":
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
            self.head_weight = self.param("head", init, (cfg.vocab_size, cfg.hidden_size), self.dtype)
        if cfg.head_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, "vocab"))
            self.head_bias = self.param("head_bias", zeros, (1, cfg.vocab_size), self.dtype)

    def __call__(self, inputs: Inputs) -> Float[Array, "rows seq embed"]:
        """Hidden states; visits every parameter, so `init` goes through here."""
        return self.encode(inputs, memory=self.read(inputs))

    def embed(self, ids: Int[Array, "rows seq"], soft=None) -> Float[Array, "rows seq embed"]:
        """Word or soft embeddings, without positions."""
        return embed_ids(self.word.weight, soft, ids, self.config.embed_scale)

    @as_asked
    def source_hidden(self, source: Inputs, soft=None, prefix: Prefix | None = None) -> Float[Array, "rows seq embed"]:
        """The encoder's hidden states."""
        given = LayerInputs(self.encoder.view(source, prefix), owners=source.owners)
        words, late = embed_inputs(self.embed, source, soft, self.word), self.encoder.late(soft, source, given)
        return self.encoder(self.encoder.enter(words, source), given, prefix, late=late)[0]

    @as_asked
    def read(self, source: Inputs, soft=None, prefix: Prefix | None = None) -> Memory:
        """Runs the encoder over packed rows; `prefix` is the encoder's."""
        return self.remember(self.source_hidden(source, soft, prefix), source)

    @as_asked
    def remember(self, hidden: Float[Array, "rows seq embed"], source: Inputs) -> Memory:
        """What the decoder reads of the encoder's hidden states of packed rows."""
        return Memory(*self.decoder.memory(hidden, source.owners), source.segments)

    @as_asked
    def encode(
        self, inputs: Inputs, soft=None, prefix: Prefix | None = None, at=None, memory: Memory | None = None
    ) -> Float[Array, "rows seq embed"]:
        """The decoder's hidden states of packed rows, or at the positions `at`; `prefix` is the decoder's."""
        view, of_source = self.decoder.view(inputs, prefix), _source_view(inputs, memory)
        given = LayerInputs(view, memory_view=of_source, at=at, owners=inputs.owners)
        x_rse = self.decoder.enter(self.embed(inputs.ids, soft), inputs)
        return self.decoder(x_rse, given, prefix, memory, late=self.decoder.late(soft, inputs, given))[0]

    @as_asked
    def decode(
        self, inputs: Inputs, cache: Cache, soft=None, prefix: Prefix | None = None, memory: Memory | None = None
    ) -> tuple[Float[Array, "rows seq embed"], Cache]:
        """Hidden states of the next tokens of each row, which see the cache, and the cache with them.

        Tokens of segment 0 are padding behind a row's real tokens; the row's next tokens overwrite them.
        """
        seq, start = inputs.ids.shape[1], 0 if prefix is None else prefix.starts(inputs.owners)
        slots, keys_at, view = cache.slots(seq), jnp.arange(cache.keys.shape[2])[None], cache.view(seq)
        view = owned(view, inputs.owners, None if prefix is None else prefix.owners)
        view = self.decoder.biased(view, slots, keys_at, start + slots, prefix)
        if isinstance(soft, Late):
            cache = cache.mark(inputs.ids >= self.config.vocab_size)
        given = LayerInputs(view, cache=cache, memory_view=_source_view(inputs, memory), owners=inputs.owners)
        late, x_rse = self.decoder.late(soft, inputs, given), self.decoder.enter(self.embed(inputs.ids, soft), inputs)
        x_rse, cache, _ = self.decoder(x_rse, given, prefix, memory, late=late)
        return x_rse, cache.advance(inputs)

    @as_asked
    def keys_values(self, ids: Int[Array, " text"]) -> tuple[Prefix, Prefix]:
        """Every layer's keys and values of one text: the decoder's, which reads it beside itself, and the encoder's."""
        positions = jnp.arange(ids.shape[0])[None]
        inputs = Inputs(ids[None], positions, jnp.ones_like(positions))
        words, memory, found = self.embed(inputs.ids), None, []
        for stack in (self.encoder, self.decoder):
            given = LayerInputs(stack.view(inputs, None), memory_view=_source_view(inputs, memory))
            hidden, _, (keys, values) = stack(stack.enter(words, inputs), given, None, memory, keep_keys_values=True)
            # An encoder's prefix takes no positions.
            found.append(Prefix(keys[:, 0], values[:, 0], length=0 if memory is None else ids.shape[0]))
            memory = Memory(*self.decoder.memory(hidden), inputs.segments) if memory is None else memory
        return found[1], found[0]

    @exact
    @jax.named_scope("head")
    def logits(self, hidden: Float[Array, "*batch embed"], columns=None) -> Float[Array, "*batch vocab"]:
        """Float32 logits of the vocabulary, or of the token ids in `columns`."""
        cfg = self.config
        if cfg.head == "none":
            raise InputError("the model has no language-model head: load a checkpoint with lm_head.weight")
        weight = self.word.weight if cfg.head == "tied" else self.head_weight
        bias = self.head_bias[0] if cfg.head_bias else None
        if columns is not None:
            weight, bias = weight[columns], None if bias is None else bias[columns]
        return linear(hidden * cfg.logit_scale, weight, bias, out_dtype=jnp.float32)


def _source_view(inputs: Inputs, memory: Memory | None) -> View | None:
    """What the decoder's tokens see of the encoder's."""
    return None if memory is None else View(inputs.segments[:, :, None] == memory.segments[:, None, :])
