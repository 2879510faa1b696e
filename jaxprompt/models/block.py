"""One transformer layer, in every arrangement that the supported families use."""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxprompt.models.layers import ACTIVATIONS, Linear, Norm
from jaxprompt.models.rotary import rotate
from jaxprompt.ops.attention import Joined, View, attend
from jaxprompt.ops.losses import gather_positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What the layers of a stack are.

    Attributes:
      norm: LayerNorm with bias, or RMSNorm.
      gated_mlp: `act(gate) * up` in place of `act(up)`.
      attention_scale: factor on the attention logits.
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
    residual: Literal["pre", "post", "output", "sandwich", "parallel", "parallel_shared"] = "pre"
    norm_affine: bool = True
    norm_offset: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    attention_softcap: float | None = None
    residual_scale: float = 1.0
    cross: bool = False


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

    def setup(self):
        cfg = self.config
        project = partial(Linear, bias=cfg.qkv_bias, dtype=self.dtype)
        self.q = project(cfg.num_heads * cfg.head_dim, ("heads", "embed"))
        self.k = project(cfg.num_kv_heads * cfg.head_dim, ("kv_heads", "embed"))
        self.v = project(cfg.num_kv_heads * cfg.head_dim, ("kv_heads", "embed"))
        self.out = Linear(cfg.hidden_size, ("embed", "heads"), cfg.out_bias, self.dtype)
        if cfg.qk_norm != "none":
            axes = (None,) if cfg.qk_norm == "head" else ("heads",)
            self.q_norm = make_norm(cfg, self.dtype, "rms", axes=axes)
            self.k_norm = make_norm(cfg, self.dtype, "rms", axes=axes)

    def _heads(self, y, norm):
        """Splits `[rows, seq, heads * head_dim]`, normed if the config asks for it."""
        if norm is not None and self.config.qk_norm == "all":
            y = norm(y)
        y = y.reshape(*y.shape[:2], -1, self.config.head_dim)
        return norm(y) if norm is not None and self.config.qk_norm == "head" else y

    def keys_values(self, x: Float[Array, "rows seq embed"]):
        """Returns keys and values `[rows, seq, kv_heads, head_dim]`, no rotary applied."""
        return self._heads(self.k(x), self.k_norm if self.config.qk_norm != "none" else None), self._heads(
            self.v(x), None
        )

    def __call__(
        self,
        x: Float[Array, "rows seq embed"],
        view: View,
        *,
        queries=None,
        keys_values=None,
        angles=None,
        interleaved: bool = False,
        prefix=(None, None),
        joined: Joined | None = None,
        cache=None,
        slots=None,
        layer=None,
    ):
        """Attends within the rows (or to given keys and values), to the prefix and to the cache.

        Args:
          view: what each token sees; of the cache, if there is one.
          queries: what attends, if not all of `x`: its positions `at`, and the angles of those (None without rotary).
          keys_values: `[rows, kv_seq, kv_heads, head_dim]` each, in place of those of `x` (cross-attention).
          angles: rotary cosines and sines `[2, rows, seq, half]`.
          interleaved: see `rotate`.
          prefix: this layer's shared keys and values `[prefix, kv_heads, head_dim]`.
          joined: `x` is a prompt and the rows end to end, `[1, tokens, embed]`, `view` is that of the rows, and
            `queries` are of the rows alone.
          cache: keys and values `[layers, rows, kv_seq, kv_heads, head_dim]` of all layers.
          slots: `[rows, seq]`, where in the cache the new keys go.
          layer: which layer of the cache is this one's.

        Returns:
          output `[rows, seq, embed]`, keys and values `[rows, seq, kv_heads, head_dim]`, updated cache.
        """
        cfg = self.config
        asking, asking_angles = (x, angles) if queries is None else queries
        q = self._heads(self.q(asking), self.q_norm if cfg.qk_norm != "none" else None)
        k, v = self.keys_values(x) if keys_values is None else keys_values
        if angles is not None:
            q, k = rotate(q, asking_angles, interleaved), rotate(k, angles, interleaved)
        see = partial(
            attend, scale=cfg.attention_scale, softcap=cfg.attention_softcap, implementation=self.implementation
        )
        keys, values, prompt = k, v, None
        if joined is not None:
            (prompt_k, keys), (prompt_v, values) = joined.split(k), joined.split(v)
            if queries is None:
                prompt_q, q = joined.split(q)
                prompt = see(prompt_q, prompt_k, prompt_v, joined.view, prefix_keys=prefix[0], prefix_values=prefix[1])
            prefix = [
                new[0] if old is None else jnp.concatenate([old, new[0]])
                for old, new in zip(prefix, (prompt_k, prompt_v), strict=True)
            ]
        if cache is not None:
            row = jnp.arange(q.shape[0])[:, None]
            # A slot past the end belongs to a row that is finished: dropped, not clamped onto the last one.
            cache = tuple(
                old.at[layer, row, slots].set(new, mode="drop") for old, new in zip(cache, (k, v), strict=True)
            )
            keys, values = cache[0][layer], cache[1][layer]
        out = see(q, keys, values, view, prefix_keys=prefix[0], prefix_values=prefix[1])
        if prompt is not None:
            out = joined.join(prompt, out, joined.padding)
        return self.out(out.reshape(*out.shape[:2], cfg.num_heads * cfg.head_dim)), (k, v), cache


class MLP(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` when gated."""

    config: BlockConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "rows seq embed"]) -> Float[Array, "rows seq embed"]:
        cfg = self.config
        act = ACTIVATIONS[cfg.activation]
        widen = partial(Linear, cfg.mlp_size, ("mlp", "embed"), cfg.mlp_bias, self.dtype)
        y = widen(name="up")(x)
        y = act(widen(name="gate")(x)) * y if cfg.gated_mlp else act(y)
        return Linear(cfg.hidden_size, ("embed", "mlp"), cfg.mlp_bias, self.dtype, name="down")(y)


class Block(nn.Module):
    """One layer; parameters in `dtype`, attention by `implementation` (see `ops.attention`)."""

    config: BlockConfig
    dtype: Any
    implementation: str

    def setup(self):
        cfg = self.config
        sublayers = ["attention", "cross", "mlp"] if cfg.cross else ["attention", "mlp"]
        self.attention = Attention(cfg, self.dtype, self.implementation)
        if cfg.cross:
            self.cross = Attention(cfg, self.dtype, self.implementation)
        self.mlp = MLP(cfg, self.dtype)
        # Flax names a submodule after the attribute that it is set to.
        for name in sublayers:
            if cfg.residual != "output" and not (cfg.residual == "parallel_shared" and name == "mlp"):
                setattr(self, f"{name}_norm", make_norm(cfg, self.dtype))
            if cfg.residual in ("output", "sandwich"):
                setattr(self, f"{name}_post_norm", make_norm(cfg, self.dtype))

    def cross_keys_values(self, hidden: Float[Array, "rows seq embed"]):
        """Returns the keys and values of the cross-attention to the encoder's hidden states."""
        return self.cross.keys_values(hidden)

    def __call__(
        self,
        x,
        view: View,
        *,
        at=None,
        joined: Joined | None = None,
        rows_only: bool = False,
        angles=None,
        memory=None,
        memory_view: View | None = None,
        **attention,
    ):
        """Returns `x` after the layer, new (keys, values), updated cache.

        Args:
          x: `[rows, seq, embed]`.
          at: `[rows, n]`, the only positions of which the layer's output is wanted; None: all.
          joined: `x` is a prompt and the rows end to end, see `Attention`.
          rows_only: of those, the output of the rows alone is wanted, as `[rows, seq, embed]`; `at` is about them.
          memory: keys and values of the cross-attention, seen as `memory_view` says.
          attention: as in `Attention`.
        """
        kept = []

        def pick(array):
            array = joined.split(array)[1] if rows_only else array
            return array if at is None else gather_positions(array, at)

        def attend_self(y):
            queries = None
            if rows_only or at is not None:
                turned = joined.split(angles, axis=1)[1] if rows_only and angles is not None else angles
                if turned is not None and at is not None:
                    turned = jnp.take_along_axis(turned, at[None, :, :, None], axis=2)
                queries = pick(y), turned
            out, *rest = self.attention(y, view.pick(at), queries=queries, angles=angles, joined=joined, **attention)
            kept[:] = rest
            return out

        if self.config.residual.startswith("parallel"):
            normed = self.attention_norm(x)
            attended, x = attend_self(normed), pick(x)
            shared = self.config.residual == "parallel_shared"
            y = attended + self.mlp(pick(normed) if shared else self.mlp_norm(x))
            return x + y * self.config.residual_scale, *kept
        x = self._add(x, "attention", attend_self, pick)
        if self.config.cross:
            x = self._add(x, "cross", lambda y: self.cross(y, memory_view, keys_values=memory)[0])
        return self._add(x, "mlp", self.mlp), *kept

    def _add(self, x, name: str, sublayer, pick=lambda x: x):
        """Adds what a sublayer gives to the residual stream, at the positions it gives, normed as the config says."""
        residual = self.config.residual
        y = sublayer(getattr(self, f"{name}_norm")(x) if residual in ("pre", "sandwich") else x)
        if residual in ("output", "sandwich"):
            y = getattr(self, f"{name}_post_norm")(y)
        x = pick(x)
        x = x + y * self.config.residual_scale if self.config.residual_scale != 1.0 else x + y
        return getattr(self, f"{name}_norm")(x) if residual == "post" else x
