"""The causal decoder. Its families differ by `DecoderConfig` alone."""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import constrain_rows, row_shards
from jaxprompt.models.block import Block, BlockConfig, make_norm
from jaxprompt.models.layers import Linear, Table, embed_ids, linear
from jaxprompt.models.rotary import Rotary
from jaxprompt.models.stack import is_last, run_layers
from jaxprompt.ops.attention import Joined, View, joined_padding, visibility, windowed
from jaxprompt.types import Inputs, Prefix, prefix_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(BlockConfig):
    """What a causal family is.

    Attributes:
      max_positions: longest input, prompt included.
      embed_size: width of the word embedding; None: the hidden size. Another width is projected in and out.
      embed_scale: factor on word embeddings, not on soft prompts.
      input_scale: factor on both.
      rotary: None means learned absolute positions.
      window: how many positions a token of a local layer sees, itself counted.
      local_layers: per layer, whether it is local; empty: none is.
      local_rotary: that of local layers, where it is another.
      final_norm: whether there is a norm behind the last layer.
      head: shares the word embedding, has a weight of its own, or is absent.
      head_bias: whether the head has a bias.
      logit_scale: factor on the vocabulary logits.
      logit_softcap: they are then squeezed into (-cap, cap) by a tanh.
    """

    vocab_size: int
    max_positions: int
    rotary: Rotary | None
    head: Literal["tied", "own", "none"]
    embed_size: int | None = None
    embed_scale: float = 1.0
    input_scale: float = 1.0
    window: int | None = None
    local_layers: tuple[bool, ...] = ()
    local_rotary: Rotary | None = None
    final_norm: bool = True
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    @property
    def soft_size(self) -> int:
        """Width of a soft prompt's rows."""
        return self.embed_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """Width of the hidden states that the model returns."""
        return self.embed_size or self.hidden_size


class Cache(struct.PyTreeNode):
    """Keys and values of a generation in progress.

    Attributes:
      keys, values: `[layers, rows, length, kv_heads, head_dim]`.
      index: how many slots of each row hold real tokens; the next token goes there.
    """

    keys: Float[Array, "layers rows length kv_heads head_dim"]
    values: Float[Array, "layers rows length kv_heads head_dim"]
    index: Int[Array, " rows"]

    def slots(self, seq: int) -> Int[Array, "rows seq"]:
        """Where the next `seq` tokens of each row go."""
        return self.index[:, None] + jnp.arange(seq)

    def seen(self, slots: Int[Array, "rows seq"]) -> View:
        """Each token sees every slot up to its own."""
        return View(jnp.arange(self.keys.shape[2]) <= slots[:, :, None])

    def take(self, rows: Int[Array, " new_rows"]) -> "Cache":
        """The cache of the rows of these numbers."""
        return Cache(self.keys[:, rows], self.values[:, rows], self.index[rows])

    def advance(self, arrays, inputs: Inputs) -> "Cache":
        """The cache with the keys and values of `inputs` in it; tokens of segment 0 are not counted."""
        index = self.index + (inputs.segments != 0).sum(1)
        return Cache(*arrays, index.astype(self.index.dtype))


class Decoder(nn.Module):
    """Token ids to hidden states and logits.

    Attributes:
      dtype: of parameters and activations.
      remat: what the backward pass recomputes, see `stack.REMAT_POLICIES`.
      mesh: keeps activations split by rows on it.
      attention: how it is computed, see `ops.attention.IMPLEMENTATIONS`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    remat: str = "dots"
    mesh: Mesh | None = None
    attention: str = "xla"

    causal = True

    def setup(self):
        cfg = self.config
        self.word = Table(cfg.vocab_size, cfg.soft_size, "vocab", self.dtype)
        if cfg.rotary is None:
            self.position = Table(cfg.max_positions, cfg.hidden_size, None, self.dtype)
        if cfg.soft_size != cfg.hidden_size:
            self.project_in = Linear(cfg.hidden_size, ("embed", None), False, self.dtype)
            self.project_out = Linear(cfg.soft_size, (None, "embed"), False, self.dtype)
        self.layers = Block(cfg, self.dtype, self.attention)
        if cfg.final_norm:
            self.final_norm = make_norm(cfg, self.dtype)
        if cfg.head == "own":
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
            self.head_weight = self.param("head", init, (cfg.vocab_size, cfg.soft_size), self.dtype)
        if cfg.head_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
            self.head_bias = self.param("head_bias", zeros, (cfg.vocab_size,), self.dtype)

    def __call__(self, inputs: Inputs) -> Float[Array, "rows seq embed"]:
        """Hidden states; visits every parameter, so `init` goes through here."""
        return self.encode(inputs)

    def embed(self, ids: Int[Array, "rows seq"], soft=None) -> Float[Array, "rows seq embed"]:
        """Word or soft embeddings, without positions."""
        return embed_ids(self.word.weight, soft, ids, self.config.embed_scale)

    def encode(
        self,
        inputs: Inputs,
        soft=None,
        prefix: Prefix | None = None,
        at=None,
        prompt: Int[Array, " prompt"] | None = None,
    ) -> Float[Array, "rows seq embed"]:
        """Hidden states of packed rows, after the final norm; of the positions `at [rows, n]` alone, if given.

        All rows see the `prompt`, which stands behind the prefix, as if it had been prefilled.
        """
        if prompt is not None and self.mesh is not None and row_shards(self.mesh) > 1:
            # Laid end to end with a prompt, rows could not be split over devices.
            prefix, prompt = self.prefill(prompt, soft, prefix), None
        start = prefix_length(prefix)
        if prompt is None:
            return self._finish(self._run(inputs, soft, prefix, self._views(inputs, start), at=at)[0])
        ahead = _sequence(prompt, start)
        padding = joined_padding(ahead.ids.size + inputs.ids.size)
        rows = Inputs(inputs.ids, inputs.positions, inputs.segments)
        both = jax.tree.map(partial(Joined.join, padding=padding), ahead, rows)
        views = self._views(inputs, start + ahead.ids.shape[1])
        before = self._views(ahead, start), inputs.ids.shape[0], padding
        return self._finish(self._run(both, soft, prefix, views, at=at, ahead=before)[0])

    def decode(
        self, inputs: Inputs, cache: Cache, soft=None, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "rows seq embed"], Cache]:
        """Hidden states of the next tokens of each row, which see the cache, and the cache with them.

        Tokens of segment 0 are padding behind a row's real tokens; the row's next tokens overwrite them.
        """
        slots = cache.slots(inputs.ids.shape[1])
        start = prefix_length(prefix)
        keys_at = jnp.broadcast_to(start + jnp.arange(cache.keys.shape[2]), (1, cache.keys.shape[2]))
        views = self._with_local(cache.seen(slots), start + slots, keys_at, start)
        x, _, arrays = self._run(inputs, soft, prefix, views, (cache.keys, cache.values), slots)
        return self._finish(x), cache.advance(arrays, inputs)

    def prefill(self, ids: Int[Array, " prompt"], soft=None, prefix: Prefix | None = None) -> Prefix:
        """Keys and values of one sequence, behind those of `prefix` if given."""
        start = prefix_length(prefix)
        inputs = _sequence(ids, start)
        _, (keys, values), _ = self._run(inputs, soft, prefix, self._views(inputs, start), keep_kv=True)
        keys, values = keys[:, 0], values[:, 0]
        if prefix is not None:
            keys = jnp.concatenate([prefix.keys.astype(keys.dtype), keys], axis=1)
            values = jnp.concatenate([prefix.values.astype(values.dtype), values], axis=1)
        return Prefix(keys, values, start + ids.shape[0])

    def logits(self, hidden: Float[Array, "*batch embed"], columns=None) -> Float[Array, "*batch vocab"]:
        """Float32 logits of the vocabulary, or of the token ids in `columns`."""
        cfg = self.config
        if cfg.head == "none":
            raise InputError("the model has no language-model head: load a checkpoint with lm_head.weight")
        weight = self.word.weight if cfg.head == "tied" else self.head_weight
        bias = self.head_bias if cfg.head_bias else None
        if columns is not None:
            weight, bias = weight[columns], None if bias is None else bias[columns]
        logits = linear(hidden, weight, bias, out_dtype=jnp.float32)
        if cfg.logit_scale != 1.0:
            logits = logits * cfg.logit_scale
        return logits if cfg.logit_softcap is None else cfg.logit_softcap * jnp.tanh(logits / cfg.logit_softcap)

    def _views(self, inputs: Inputs, start: int) -> tuple[View, View | None]:
        """What tokens of global and of local layers see, behind a prefix of `start` tokens."""
        return self._with_local(
            View(visibility(inputs, causal=True), causal=True), inputs.positions, inputs.positions, start
        )

    def _with_local(self, view, queries, keys, start):
        if not any(self.config.local_layers):
            return view, None
        return view, windowed(view, self.config.window, queries, keys, start)

    def _finish(self, x):
        x = self.final_norm(x) if self.config.final_norm else x
        return x if self.config.soft_size == self.config.hidden_size else self.project_out(x)

    def _run(self, inputs, soft, prefix, views, cache=None, slots=None, keep_kv=False, at=None, ahead=None):
        """Returns hidden states before the final norm, all layers' new (keys, values) or None, the updated cache.

        With `ahead`, a prompt's views, the number of rows and the padding behind them, the inputs are that prompt and
        the rows end to end.
        """
        cfg = self.config
        x = self.embed(inputs.ids, soft)
        if cfg.input_scale != 1.0:
            x = x * jnp.asarray(cfg.input_scale, x.dtype)
        if cfg.soft_size != cfg.hidden_size:
            x = self.project_in(x)
        place = partial(constrain_rows, mesh=self.mesh) if ahead is None else lambda x: x
        x = place(x)
        angles = local_angles = None
        if cfg.rotary is None:
            x = x + self.position(inputs.positions)
        else:
            angles = cfg.rotary.angles(inputs.positions)
            local_angles = angles if cfg.local_rotary is None else cfg.local_rotary.angles(inputs.positions)
        if prefix is not None:
            prefix = jax.tree.map(lambda array: array.astype(self.dtype), prefix)
        interleaved = cfg.rotary is not None and cfg.rotary.interleaved
        before, rows, padding = ((None, None), 0, 0) if ahead is None else ahead

        def step(block, carry, prefix_kv, layer):
            x, cache = carry
            view, prompt_view, turned = _of_layer(
                layer, cfg.local_layers, (views[0], before[0], angles), (views[1], before[1], local_angles)
            )
            last = is_last(layer, cfg.num_layers)
            x, kv, cache = block(
                x,
                view,
                at=at if last else None,
                joined=None if ahead is None else Joined(prompt_view, prompt_view.row.shape[1], rows, padding),
                rows_only=last and ahead is not None,
                angles=turned,
                interleaved=interleaved,
                prefix=prefix_kv,
                cache=cache,
                slots=slots,
                layer=layer,
            )
            return (place(x), cache), kv if keep_kv else None

        # Where not all of the last layer's output is used, it is worth a program of its own.
        apart = at is not None or keep_kv or ahead is not None
        (x, cache), kv = run_layers(self.layers, step, (x, cache), prefix, cfg.num_layers, self.remat, apart)
        return x, kv, cache


def _of_layer(layer, local_layers: tuple[bool, ...], everywhere, local):
    """Returns what a layer of the scan uses."""
    if not any(local_layers):
        return everywhere
    if all(local_layers):
        return local
    if isinstance(layer, int):
        return local if local_layers[layer] else everywhere
    is_local = jnp.asarray(np.asarray(local_layers))[layer]
    # A global layer sees the whole prefix.
    everywhere = [
        view.replace(prefix=jnp.ones_like(seen.prefix)) if isinstance(view, View) and seen.prefix is not None else view
        for view, seen in zip(everywhere, local, strict=True)
    ]
    return jax.tree.map(lambda a, b: jnp.where(is_local, a, b), list(local), everywhere)


def _sequence(ids: Int[Array, " seq"], start: int) -> Inputs:
    """One sequence as a row, its positions from `start` on."""
    positions = jnp.arange(start, start + ids.shape[0])[None]
    return Inputs(ids[None], positions, jnp.ones_like(positions))
