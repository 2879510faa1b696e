"""One transformer layer, in every arrangement that the supported families use.

Suffixes name axes as in `ops.attention`.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.models.cache import Cache
from jaxprompt.models.layers import ACTIVATIONS, Linear, Norm
from jaxprompt.models.rotary import Rotary, rotate
from jaxprompt.ops.attention import AttentionOptions, KeysValues, attend, attend_gated
from jaxprompt.ops.losses import gather_positions
from jaxprompt.ops.views import Joined, View


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What the layers of a stack are.

    Attributes:
      norm: LayerNorm with bias, or RMSNorm.
      gated_mlp: `act(gate) * up` in place of `act(up)`.
      rotary: None: positions enter elsewhere.
      attention_scale: factor on the attention logits.
      scale_by_layer: the factor is divided by the layer's number, counted from 1.
      qkv_bias: biases of the projections to queries, keys and values; likewise `out_bias`, `mlp_bias`.
      residual: where the norms stand. "pre": before attention and before the MLP. "post": after each sum. "output":
        of what is added. "sandwich": both before and of what is added. "parallel": attention and MLP side by side,
        each behind a norm; "parallel_shared": behind one.
      norm_affine: whether norms have weights.
      norm_offset: the norm's factor is 1 + weight (Gemma).
      qk_norm: RMSNorm of queries and keys, per head ("head") or over all heads at once ("all").
      attention_softcap: attention logits are squeezed into (-cap, cap) by a tanh.
      residual_scale: factor on what is added to the residual stream.
      cross: whether there is a cross-attention between attention and MLP.
      wide_stream: the residual stream, and what is added to it, are float32 in a float16 model: they exceed 65504. Norms
        stand before attention and MLP, none behind a sum.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    norm: Literal["layer", "rms"]
    norm_epsilon: float
    activation: str
    gated_mlp: bool
    attention_scale: float
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    rotary: Rotary | None = None
    scale_by_layer: bool = False
    residual: Literal["pre", "post", "output", "sandwich", "parallel", "parallel_shared"] = "pre"
    norm_affine: bool = True
    norm_offset: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    attention_softcap: float | None = None
    residual_scale: float = 1.0
    cross: bool = False
    wide_stream: bool = False

    def stream_dtype(self, dtype: Any) -> Any:
        """Returns the type of the residual stream, and of what is added to it, in a model of this type."""
        return jnp.float32 if self.wide_stream and jnp.dtype(dtype) == jnp.float16 else dtype


class LayerInputs(struct.PyTreeNode):
    """What a layer is given beside the hidden states, and what of its output is wanted.

    Attributes:
      view: what each token of the rows sees; of the cache, if there is one.
      angles: rotary cosines and sines of all tokens; None: there is no rotary.
      joined: the hidden states are those of a prompt and of the rows end to end; None: of the rows alone.
      prefix: this layer's keys and values that all rows see.
      ahead: all layers' keys and values that stand before the rows' own, `[layers, rows, ahead, kv_heads, head_dim]`.
      cache: the keys and values of all layers, this one's new ones not yet among them.
      owners: as `Inputs.owners`, of all tokens.
      memory, memory_view: keys and values of the cross-attention, and what each token sees of them.
      layer: its number, counted from 0, traced in a loop.
      at: the only positions of the rows of which the last layer's output is wanted; None: all.
      is_last: whether the layer is known to be the last one, of which the prompt's output is not wanted either.
    """

    view: View
    angles: Float[Array, "2 rows seq half"] | None = None
    joined: Joined | None = None
    prefix: KeysValues | None = None
    ahead: KeysValues | None = None
    cache: Cache | None = None
    owners: Int[Array, "rows seq"] | None = None
    memory: KeysValues | None = None
    memory_view: View | None = None
    layer: Int[Array, ""] | int = 0
    at: Int[Array, "rows n"] | None = None
    is_last: bool = struct.field(pytree_node=False, default=False)

    @property
    def picked_owners(self) -> Int[Array, "rows n"] | None:
        """The owners of the tokens whose output is wanted."""
        return None if self.owners is None else self.pick(self.owners[..., None])[..., 0]

    def pick(self, x: Float[Array, "rows seq *rest"]) -> Float[Array, "rows n *rest"]:
        """Of an array by token, the part of those whose output is wanted."""
        if not self.is_last:
            return x
        x = x if self.joined is None else self.joined.split(x)[1]
        return x if self.at is None else gather_positions(x, self.at)

    def pick_view(self, view: View) -> View:
        """Of a view of the rows, what the tokens see whose output is wanted."""
        return view.pick(self.at) if self.is_last else view


def make_norm(config: BlockConfig, dtype: Any, kind: str | None = None, **options: Any) -> Norm:
    """Returns a norm as the config asks for."""
    return Norm(
        kind or config.norm, config.norm_epsilon, config.norm_affine, config.norm_offset, dtype=dtype, **options
    )


class Attention(nn.Module):
    """Projections around `attend`."""

    config: BlockConfig
    dtype: Any = jnp.float32
    implementation: str = "xla"
    mesh: Mesh | None = None

    def setup(self):
        cfg = self.config
        project = partial(Linear, bias=cfg.qkv_bias, dtype=self.dtype)
        self.q = project(cfg.num_heads * cfg.head_dim, ("heads", "embed"))
        self.k = project(cfg.num_kv_heads * cfg.head_dim, ("kv_heads", "embed"))
        self.v = project(cfg.num_kv_heads * cfg.head_dim, ("kv_heads", "embed"))
        out_dtype = cfg.stream_dtype(self.dtype)
        self.out = Linear(cfg.hidden_size, ("embed", "heads"), cfg.out_bias, self.dtype, out_dtype)
        if cfg.qk_norm != "none":
            axes = (None,) if cfg.qk_norm == "head" else ("heads",)
            self.q_norm = make_norm(cfg, self.dtype, "rms", axes=axes)
            self.k_norm = make_norm(cfg, self.dtype, "rms", axes=axes)

    def __call__(
        self, x_rse: Float[Array, "rows seq embed"], given: LayerInputs
    ) -> tuple[Float[Array, "rows n embed"], KeysValues, Cache | None]:
        """Attends within the rows, to the prefix and to the cache.

        Returns:
          output, new keys and values `[rows, seq, kv_heads, head_dim]`, updated cache.
        """
        rotary, angles = self.config.rotary, given.angles
        q_rshd = self.queries(given.pick(x_rse), given.picked_owners)
        k_rskd, v_rskd = self.keys_values(x_rse, given.owners)
        if angles is not None:
            q_rshd = rotate(q_rshd, jax.vmap(given.pick)(angles), rotary.interleaved)
            k_rskd = rotate(k_rskd, angles, rotary.interleaved)

        k_rtkd, v_rtkd, cache = k_rskd, v_rskd, given.cache
        if cache is not None:
            cache = cache.write(given.layer, (k_rskd, v_rskd))
            k_rtkd, v_rtkd = cache.keys[given.layer], cache.values[given.layer]
        if given.ahead is not None:
            k_rtkd, v_rtkd = (
                jnp.concatenate([part[given.layer].astype(own.dtype), own], axis=1)
                for part, own in zip(given.ahead, (k_rtkd, v_rtkd), strict=True)
            )

        if given.joined is None:
            options, view = self.options(given.layer), given.pick_view(given.view)
            y_rshd = attend(q_rshd, k_rtkd, v_rtkd, view, options, given.prefix)
        else:
            y_rshd = self._attend_joined(q_rshd, k_rtkd, v_rtkd, given)

        gated = self.get_variable("params", "gated")
        if gated is not None:
            k_rpkd, v_rpkd = self.keys_values(gated.rows[None].astype(self.dtype))
            y_rshd = y_rshd + attend_gated(q_rshd, (k_rpkd[0], v_rpkd[0]), gated.gate, self.options(given.layer))
        return self._merge(y_rshd, given.picked_owners), (k_rskd, v_rskd), cache

    def read(self, x_rse: Float[Array, "rows seq embed"], memory: KeysValues, view: View, owners=None):
        """Attends to given keys and values `[rows, kv_seq, kv_heads, head_dim]` alone (cross-attention)."""
        return self._merge(attend(self.queries(x_rse, owners), *memory, view, self.options(0)), owners)

    def queries(self, x_rse: Float[Array, "rows seq embed"], owners=None) -> Float[Array, "rows seq heads head_dim"]:
        """Returns queries, no rotary applied."""
        return self._heads(self.q(x_rse, owners), self.q_norm if self.config.qk_norm != "none" else None)

    def keys_values(self, x_rse: Float[Array, "rows seq embed"], owners=None) -> KeysValues:
        """Returns keys and values `[rows, seq, kv_heads, head_dim]`, no rotary applied."""
        k_norm = self.k_norm if self.config.qk_norm != "none" else None
        return self._heads(self.k(x_rse, owners), k_norm), self._heads(self.v(x_rse, owners), None)

    @nn.nowrap
    def options(self, layer: Int[Array, ""] | int) -> AttentionOptions:
        """Returns how a layer attends."""
        cfg = self.config
        scale = cfg.attention_scale / (layer + 1) if cfg.scale_by_layer else cfg.attention_scale
        return AttentionOptions(scale, cfg.attention_softcap, self.implementation, self.mesh)

    @nn.nowrap
    def _attend_joined(self, q_rshd, k_rskd, v_rskd, given):
        """The prompt to itself and to what is before it, the rows to themselves and to all of that."""
        joined, options, prefix = given.joined, self.options(given.layer), given.prefix
        (prompt_k, k_rtkd), (prompt_v, v_rtkd) = joined.split(k_rskd), joined.split(v_rskd)
        before = prompt_k[0], prompt_v[0]
        if prefix is not None:
            before = tuple(jnp.concatenate([old, new]) for old, new in zip(prefix, before, strict=True))
        view = given.pick_view(given.view)
        if given.is_last:
            return attend(q_rshd, k_rtkd, v_rtkd, view, options, before)
        prompt_q, q_rshd = joined.split(q_rshd)
        prompt = attend(prompt_q, prompt_k, prompt_v, joined.view, options, prefix)
        return joined.join(prompt, attend(q_rshd, k_rtkd, v_rtkd, view, options, before))

    @nn.nowrap
    def _heads(self, y, norm):
        """Splits `[rows, seq, heads * head_dim]`, normed if the config asks for it."""
        if norm is not None and self.config.qk_norm == "all":
            y = norm(y)
        y = y.reshape(*y.shape[:2], -1, self.config.head_dim)
        return norm(y) if norm is not None and self.config.qk_norm == "head" else y

    @nn.nowrap
    def _merge(self, y_rshd, owners):
        return self.out(y_rshd.reshape(*y_rshd.shape[:2], -1), owners)


class MLP(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` when gated."""

    config: BlockConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_rse: Float[Array, "rows seq embed"], owners=None) -> Float[Array, "rows seq embed"]:
        cfg = self.config
        act, out_dtype = ACTIVATIONS[cfg.activation], cfg.stream_dtype(self.dtype)
        widen = partial(Linear, cfg.mlp_size, ("mlp", "embed"), cfg.mlp_bias, self.dtype)
        y = widen(name="up")(x_rse, owners)
        y = act(widen(name="gate")(x_rse, owners)) * y if cfg.gated_mlp else act(y)
        return Linear(cfg.hidden_size, ("embed", "mlp"), cfg.mlp_bias, self.dtype, out_dtype, name="down")(y, owners)


class Block(nn.Module):
    """One layer; parameters in `dtype`, attention by `implementation` (see `ops.attention`)."""

    config: BlockConfig
    dtype: Any
    implementation: str
    mesh: Mesh | None = None

    def setup(self):
        cfg = self.config
        sublayers = ["attention", "cross", "mlp"] if cfg.cross else ["attention", "mlp"]
        self.attention = Attention(cfg, self.dtype, self.implementation, self.mesh)
        if cfg.cross:
            self.cross = Attention(cfg, self.dtype, self.implementation, self.mesh)
        self.mlp = MLP(cfg, self.dtype)
        # Flax names a submodule after the attribute that it is set to.
        for name in sublayers:
            if cfg.residual != "output" and not (cfg.residual == "parallel_shared" and name == "mlp"):
                setattr(self, f"{name}_norm", make_norm(cfg, self.dtype))
            if cfg.residual in ("output", "sandwich"):
                setattr(self, f"{name}_post_norm", make_norm(cfg, self.dtype))

    def cross_keys_values(self, hidden: Float[Array, "rows seq embed"], owners=None) -> KeysValues:
        """Returns the keys and values of the cross-attention to the encoder's hidden states."""
        return self.cross.keys_values(hidden, owners)

    def __call__(
        self, x_rse: Float[Array, "rows seq embed"], given: LayerInputs
    ) -> tuple[Float[Array, "rows n embed"], KeysValues, Cache | None]:
        """Returns the hidden states after the layer, its new keys and values (of all tokens), the updated cache."""
        if self.config.residual.startswith("parallel"):
            return self._parallel(x_rse, given)
        with jax.named_scope("attention"):
            y_rse, keys_values, cache = self.attention(self._before("attention", x_rse), given)
            x_rse = self._add("attention", given.pick(x_rse), y_rse)

        if self.config.cross:
            with jax.named_scope("cross"):
                view = given.pick_view(given.memory_view)
                y_rse = self.cross.read(self._before("cross", x_rse), given.memory, view, given.picked_owners)
                x_rse = self._add("cross", x_rse, y_rse)

        with jax.named_scope("mlp"):
            x_rse = self._add("mlp", x_rse, self.mlp(self._before("mlp", x_rse), given.picked_owners))
        return x_rse, keys_values, cache

    @nn.nowrap
    def _parallel(self, x_rse, given):
        """Attention and MLP side by side."""
        with jax.named_scope("attention"):
            normed_rse = self.attention_norm(x_rse)
            attended_rse, keys_values, cache = self.attention(normed_rse, given)
        with jax.named_scope("mlp"):
            x_rse = given.pick(x_rse)
            shared = self.config.residual == "parallel_shared"
            normed_rse = given.pick(normed_rse) if shared else self.mlp_norm(x_rse)
            y_rse = attended_rse + self.mlp(normed_rse, given.picked_owners)
            return x_rse + y_rse * self.config.residual_scale, keys_values, cache

    @nn.nowrap
    def _before(self, name: str, x_rse):
        """What a sublayer is given."""
        return getattr(self, f"{name}_norm")(x_rse) if self.config.residual in ("pre", "sandwich") else x_rse

    @nn.nowrap
    def _add(self, name: str, x_rse, y_rse):
        """Adds what a sublayer gives to the residual stream."""
        cfg = self.config
        if cfg.residual in ("output", "sandwich"):
            y_rse = getattr(self, f"{name}_post_norm")(y_rse)
        x_rse = x_rse + y_rse * cfg.residual_scale if cfg.residual_scale != 1.0 else x_rse + y_rse
        return getattr(self, f"{name}_norm")(x_rse) if cfg.residual == "post" else x_rse
