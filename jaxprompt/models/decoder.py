"""The causal decoder. Its families differ by `DecoderConfig` alone.

Suffixes name axes as in `ops.attention`.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import constrain_rows, row_shards
from jaxprompt.models.block import Block, BlockConfig, LayerInputs, make_norm
from jaxprompt.models.cache import Cache
from jaxprompt.models.late import Entrance, entrance, hiding, run_with, slots_behind, slots_of
from jaxprompt.models.layers import Linear, Table, embed_ids, embed_inputs, linear
from jaxprompt.models.numbered import numbered
from jaxprompt.models.precision import as_asked, exact
from jaxprompt.models.rotary import Rotary
from jaxprompt.models.stack import is_last, run_layers
from jaxprompt.ops.views import Joined, View, joined_padding, owned, visibility, windowed
from jaxprompt.types import Ahead, Inputs, Late, Prefix, prefix_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(BlockConfig):
    """What a causal family is.

    Attributes:
      max_positions: longest input, prompt included. Positions are learned ones, unless there is a `rotary`.
      embed_size: width of the word embedding; None: the hidden size. Another width is projected in and out.
      embed_scale: factor on word embeddings, not on soft prompts.
      input_scale: factor on both.
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


class Decoder(nn.Module):
    """Token ids to hidden states and logits.

    Attributes:
      dtype: of parameters and activations.
      remat: what the backward pass recomputes, see `stack.REMAT_POLICIES`.
      mesh: keeps activations split by rows on it.
      attention: how it is computed, see `ops.attention.IMPLEMENTATIONS`.
      matmul_precision: of products of float32 in the layers, see `models.precision`; those of the head are exact.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    remat: str = "dots"
    mesh: Mesh | None = None
    attention: str = "xla"
    matmul_precision: str = "highest"

    causal = True

    def setup(self):
        cfg = self.config
        self.word = Table(cfg.vocab_size, cfg.soft_size, "vocab", self.dtype)
        if cfg.rotary is None:
            self.position = Table(cfg.max_positions, cfg.hidden_size, None, self.dtype)
        if cfg.soft_size != cfg.hidden_size:
            self.project_in = Linear(cfg.hidden_size, ("embed", None), False, self.dtype)
            self.project_out = Linear(cfg.soft_size, (None, "embed"), False, self.dtype)
        self.layers = Block(cfg, self.dtype, self.attention, self.mesh)
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

    @as_asked
    def encode(
        self,
        inputs: Inputs,
        soft=None,
        prefix: Prefix | None = None,
        at=None,
        prompt: Int[Array, " prompt"] | Inputs | None = None,
        ahead: Ahead | None = None,
    ) -> Float[Array, "rows seq embed"]:
        """Hidden states of packed rows, after the final norm; of the positions `at [rows, n]` alone, if given.

        All rows see the `prompt`, which stands behind the prefix, as if it had been prefilled, or of several owners' their
        own; each segment sees what is `ahead` of it, with which there is no prompt.
        """
        split = self.mesh is not None and row_shards(self.mesh) > 1
        if prompt is not None and (split or inputs.read is not None):
            # Laid end to end with a prompt, rows could not be split over devices, and their segments not be told apart.
            prefix, prompt = self.prefill(prompt, soft, prefix), None
        if prompt is None:
            layers = self._layers(self._views(inputs, prefix, ahead=ahead), inputs, at)
            if ahead is not None:
                layers = [given.replace(ahead=(ahead.keys, ahead.values)) for given in layers]
            late = self._late(soft, inputs, layers, prefix)
            return self._finish(self._run(self._enter(inputs, soft), layers, prefix, late=late)[0])

        # Prompt and rows end to end.
        lead, rows = self._sequence(prompt, prefix), inputs.ids.shape[0]
        padding = joined_padding(lead.ids.size + inputs.ids.size)
        joined = [Joined(view, lead.ids.size, rows, padding) for view in self._views(lead, prefix)]
        if inputs.mix_ids is not None:
            lead = lead.replace(mix_ids=lead.ids, mix=jnp.zeros(lead.ids.shape))
        both = jax.tree.map(joined[0].join, lead, inputs.replace(types=None, branches=None))
        layers = self._layers(self._views(inputs, prefix, lead), both, at)
        layers = [given.replace(joined=of_layer) for given, of_layer in zip(layers, joined, strict=True)]

        def below(_):
            of_lead, of_rows = (ids >= self.config.vocab_size for ids in (lead.ids, inputs.ids))
            behind = slots_behind(prefix, of_lead[0])
            return [
                given.replace(
                    view=hiding(given.view, of_rows, behind),
                    joined=given.joined.replace(view=hiding(given.joined.view, of_lead, slots_of(prefix))),
                )
                for given in layers
            ]

        late = entrance(soft, both.ids, self.config.vocab_size, below)
        return self._finish(self._run(self._enter(both, soft), layers, prefix, late=late)[0])

    @as_asked
    def decode(
        self, inputs: Inputs, cache: Cache, soft=None, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "rows seq embed"], Cache]:
        """Hidden states of the next tokens of each row, which see the cache, and the cache with them.

        Tokens of segment 0 are padding behind a row's real tokens; the row's next tokens overwrite them.
        """
        seq, slots = inputs.ids.shape[1], jnp.arange(cache.keys.shape[2])[None]
        start = 0 if prefix is None else prefix.starts(None if inputs.owners is None else inputs.owners[:, :1])
        views = self._seen(cache.view(seq), inputs.owners, start + cache.slots(seq), start + slots, prefix)
        layers, late = self._layers(views, inputs), None
        if isinstance(soft, Late):
            cache = cache.mark(inputs.ids >= self.config.vocab_size)
            late = self._late(soft, inputs, layers, prefix, cache)
        x_rse, _, cache = self._run(self._enter(inputs, soft), layers, prefix, cache, late=late)
        return self._finish(x_rse), cache.advance(inputs)

    @as_asked
    def prefill(self, ids: Int[Array, " prompt"] | Inputs, soft=None, prefix: Prefix | None = None) -> Prefix:
        """Keys and values of one sequence, or of one for each owner in one row, behind those of `prefix` if given.

        Where the tokens of each owner then start, the caller knows: `lengths` are those of `prefix`.
        """
        inputs = self._sequence(ids, prefix)
        x_rse, layers = self._enter(inputs, soft), self._layers(self._views(inputs, prefix), inputs)
        late = self._late(soft, inputs, layers, prefix)
        _, (keys, values), _ = self._run(x_rse, layers, prefix, keep_keys_values=True, late=late)
        keys, values = keys[:, 0], values[:, 0]
        if prefix is not None:
            keys = jnp.concatenate([prefix.keys.astype(keys.dtype), keys], axis=1)
            values = jnp.concatenate([prefix.values.astype(values.dtype), values], axis=1)
        slots = None if late is None else slots_behind(prefix, inputs.ids[0] >= self.config.vocab_size)
        found = Prefix(keys, values, prefix_length(prefix) + inputs.ids.shape[1], slots=slots)
        if inputs.owners is None:
            return found
        places, owners = _before(prefix, inputs)
        return found.replace(owners=owners, places=places, lengths=None if prefix is None else prefix.lengths)

    @as_asked
    def look_ahead(self, inputs: Inputs, soft=None, prefix: Prefix | None = None) -> Ahead:
        """Keys and values of packed rows, for other rows of the same segments that stand behind them."""
        layers = self._layers(self._views(inputs, prefix), inputs)
        _, (keys, values), _ = self._run(self._enter(inputs, soft), layers, prefix, keep_keys_values=True)
        return Ahead(keys, values, inputs.segments, inputs.positions)

    @exact
    @jax.named_scope("head")
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

    def _sequence(self, ids: Int[Array, " seq"] | Inputs, prefix: Prefix | None) -> Inputs:
        """One sequence, none of which is a target, as a row behind a prefix; or one of each of several owners, in a row."""
        if not isinstance(ids, Inputs):
            start = prefix_length(prefix)
            positions = jnp.arange(start, start + ids.shape[0])[None]
            ids = Inputs(ids[None], positions, jnp.ones_like(positions))
        return numbered(self.variables["params"], ids, self.config.vocab_size)

    @jax.named_scope("embed")
    def _enter(self, inputs, soft):
        """What the first layer is given."""
        cfg = self.config
        x_rse = embed_inputs(self.embed, inputs, soft, self.word)
        if cfg.input_scale != 1.0:
            x_rse = x_rse * jnp.asarray(cfg.input_scale, x_rse.dtype)
        if cfg.soft_size != cfg.hidden_size:
            x_rse = self.project_in(x_rse)
        return x_rse if cfg.rotary is not None else x_rse + self.position(inputs.positions)

    def _layers(self, views: list[View], inputs: Inputs, at=None) -> list[LayerInputs]:
        """What global and, if there are any, local layers are given: what they see, and the angles of `inputs`."""
        cfg = self.config
        rotaries = [cfg.rotary, cfg.local_rotary or cfg.rotary][: len(views)]
        angles = {rotary: None if rotary is None else rotary.angles(inputs.positions) for rotary in rotaries}
        return [
            LayerInputs(view, angles[rotary], at=at, owners=inputs.owners)
            for view, rotary in zip(views, rotaries, strict=True)
        ]

    def _views(
        self, inputs: Inputs, prefix: Prefix | None, prompt: Inputs | None = None, ahead: Ahead | None = None
    ) -> list[View]:
        """What tokens of global and of local layers see, behind a prefix, a prompt, and what is ahead of each."""
        seen, keys = visibility(inputs, causal=True), inputs.positions
        if ahead is not None:
            own = inputs.segments[:, :, None] == ahead.segments[:, None, :]
            seen = jnp.concatenate([own & (inputs.segments > 0)[:, :, None], seen], axis=2)
            keys = jnp.concatenate([ahead.positions, keys], axis=1)
        return self._seen(View(seen, causal=True), inputs.owners, inputs.positions, keys, prefix, prompt)

    def _seen(self, view, owners, queries, keys, prefix, prompt=None) -> list[View]:
        """A view in global and in local layers, by the owners and positions of tokens and the positions of their keys."""
        places, of_keys = _before(prefix, prompt)
        views = [view]
        if any(self.config.local_layers):
            views.append(windowed(view, self.config.window, queries, keys, places))
        return [owned(view, owners, of_keys) for view in views]

    def _late(self, soft, inputs: Inputs, layers: list[LayerInputs], prefix, cache: Cache | None = None):
        """Where late rows enter that stand in `inputs`, behind what the prefix and the cache hold."""

        def below(slots):
            places = None if cache is None else cache.slots(inputs.ids.shape[1])
            slots = slots if cache is None else cache.late
            return [given.replace(view=hiding(given.view, slots, slots_of(prefix), places)) for given in layers]

        return entrance(soft, inputs.ids, self.config.vocab_size, below)

    def _run(
        self,
        x_rse,
        layers: list[LayerInputs],
        prefix,
        cache: Cache | None = None,
        keep_keys_values=False,
        late: Entrance | None = None,
    ):
        """Returns hidden states before the final norm, all layers' new (keys, values) or None, the updated cache.

        Args:
          layers: what global and local layers are given.
          late: where late rows enter.
        """
        cfg, joined = self.config, layers[0].joined is not None
        place = (lambda x: x) if joined else partial(constrain_rows, mesh=self.mesh)
        if prefix is not None:
            prefix = prefix.cast(self.dtype)
        # Where not all of the last layer's output is used, it is worth a program of its own.
        apart = layers[0].at is not None or joined or keep_keys_values

        def run(carry, layers, within):
            def step(block, carry, prefix_kv, layer):
                x_rse, cache = carry
                given = _of_layer(layer, cfg.local_layers, layers).replace(
                    prefix=prefix_kv, cache=cache, layer=layer, is_last=is_last(layer, cfg.num_layers)
                )
                x_rse, keys_values, cache = block(x_rse, given)
                return (place(x_rse), cache), keys_values if keep_keys_values else None

            return run_layers(self.layers, step, carry, prefix, cfg.num_layers, self.remat, apart, within)

        (x_rse, cache), keys_values = run_with(run, (place(x_rse), cache), layers, late, cfg.num_layers)
        return x_rse, keys_values, cache

    def _finish(self, x_rse):
        x_rse = self.final_norm(x_rse) if self.config.final_norm else x_rse
        return x_rse if self.config.soft_size == self.config.hidden_size else self.project_out(x_rse)


def _of_layer(layer, local_layers: tuple[bool, ...], layers: list[LayerInputs]) -> LayerInputs:
    """What a layer of the loop is given, of what global and local layers are."""
    if not any(local_layers):
        return layers[0]
    everywhere, local = layers
    if isinstance(layer, int) or all(local_layers):
        return local if local_layers[layer if isinstance(layer, int) else 0] else everywhere
    is_local = jnp.asarray(np.asarray(local_layers))[layer]
    everywhere = _sees_prefix(everywhere, local)
    return jax.tree.map(lambda a, b: b if a is b else jnp.where(is_local, a, b), local, everywhere)


def _sees_prefix(everywhere: LayerInputs, local: LayerInputs) -> LayerInputs:
    """What a global layer is given, in the form of a local one: it sees the whole prefix."""

    def whole(view, seen):
        untold = view.prefix is None and seen.prefix is not None
        return view.replace(prefix=jnp.ones_like(seen.prefix)) if untold else view

    joined = everywhere.joined
    if joined is not None:
        joined = joined.replace(view=whole(joined.view, local.joined.view))
    return everywhere.replace(view=whole(everywhere.view, local.view), joined=joined)


def _before(prefix: Prefix | None, prompt: Inputs | None):
    """The positions, and the owners or None, of the keys of a prefix and of the prompt behind it."""
    places = [] if prefix is None else [prefix.positions]
    owners = [] if prefix is None else [prefix.owners]
    if prompt is not None:
        places.append(prompt.positions[0])
        owners.append(None if prompt.owners is None else prompt.owners[0])
    known = [of for of in owners if of is not None]
    return jnp.concatenate([jnp.zeros(0, jnp.int32), *places]), jnp.concatenate(known) if known else None
