"""Which tokens see which, and the attention that every backbone uses."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.ops.products import wide_einsum
from jaxprompt.types import Inputs

# How attention is computed: by einsums that XLA compiles for any device, or by cuDNN's flash attention.
IMPLEMENTATIONS = ("xla", "cudnn")
# Causal rows of twice this many tokens are attended to in blocks, but in no more than so many: each is compiled.
QUERY_BLOCK = 128
ACCELERATOR_QUERY_BLOCK = 256
QUERY_BLOCKS = 4
# The widest head that cuDNN's backward pass takes on every GPU that it runs on.
CUDNN_HEAD_DIM = 128


class View(struct.PyTreeNode):
    """What each token of the rows sees.

    Attributes:
      row: the keys of its own row (or of the cache, or of the encoder), and what stands ahead of them.
      prefix: the keys of the prefix; None: all of them.
      row_bias, prefix_bias: added to the attention logits; None: nothing. One row stands for all.
      causal: whether the tokens are those of the row, in order, and none sees a later one.
    """

    row: Bool[Array, "rows seq kv_seq"]
    prefix: Bool[Array, "rows seq prefix"] | None = None
    row_bias: Float[Array, "rows heads seq kv_seq"] | None = None
    prefix_bias: Float[Array, "rows heads seq prefix"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)

    def upto(self, start: int, stop: int, ahead: int = 0) -> "View":
        """What the tokens from `start` to `stop` see of those before `stop` and of as many others `ahead` of them."""
        queries, keys = slice(start, stop), slice(ahead + stop)
        return View(
            self.row[:, queries, keys],
            None if self.prefix is None else self.prefix[:, queries],
            None if self.row_bias is None else self.row_bias[:, :, queries, keys],
            None if self.prefix_bias is None else self.prefix_bias[:, :, queries],
        )

    def pick(self, at: Int[Array, "rows n"] | None) -> "View":
        """What the tokens `at` these positions see; None: all tokens."""
        if at is None:
            return self

        def seen(mask):
            return None if mask is None else jnp.take_along_axis(mask, at[:, :, None], axis=1)

        def added(bias):
            if bias is None:
                return None
            bias = jnp.broadcast_to(bias, (at.shape[0], *bias.shape[1:]))
            return jnp.take_along_axis(bias, at[:, None, :, None], axis=2)

        return View(seen(self.row), seen(self.prefix), added(self.row_bias), added(self.prefix_bias))


class Joined(struct.PyTreeNode):
    """A prompt and the rows that see it, laid end to end in arrays `[1, prompt + rows * seq + padding, ...]`.

    What works token by token then reads the weights once for both, and a prompt of a few tokens costs no pass of its
    own. Attention takes the two apart.

    Attributes:
      view: what the prompt's tokens see of each other and of a prefix before them.
      length: tokens of the prompt.
      rows: how many rows there are.
      padding: how many tokens behind the rows are nothing, see `joined_padding`.
    """

    view: View
    length: int = struct.field(pytree_node=False)
    rows: int = struct.field(pytree_node=False)
    padding: int = struct.field(pytree_node=False)

    @staticmethod
    def join(prompt: Shaped[Array, "1 prompt *rest"], rows: Shaped[Array, "rows seq *rest"], padding: int):
        """Lays both end to end."""
        both = jnp.concatenate([prompt, rows.reshape(1, -1, *rows.shape[2:])], axis=1)
        return jnp.pad(both, ((0, 0), (0, padding)) + ((0, 0),) * (both.ndim - 2)) if padding else both

    def split(self, both: Shaped[Array, "..."], axis: int = 0):
        """Takes `[*axis, 1, tokens, *rest]` apart, laid end to end along the axis behind `axis`, which has size 1."""
        end = both.shape[axis + 1] - self.padding
        prompt, rows, _ = jnp.split(both, [self.length, end], axis=axis + 1)
        return prompt, rows.reshape(*both.shape[:axis], self.rows, -1, *both.shape[axis + 2 :])


def joined_padding(tokens: int) -> int:
    """Returns how many tokens to lay behind so many: up to a multiple of 8, which tensor cores want in 16 bits.

    None on a CPU. Elsewhere the compiler would pad the operands of every product, and copy them to do so.
    """
    return 0 if jax.default_backend() == "cpu" else -tokens % 8


def visibility(inputs: Inputs, causal: bool) -> Bool[Array, "rows seq seq"]:
    """Returns which token (last axis) each token (middle axis) of its row sees, the prefix apart.

    Padding is segment 0 and sees padding, so that no token is left with nothing to attend to.
    """
    seen = inputs.segments[:, :, None] == inputs.segments[:, None, :]
    if inputs.branches is not None:
        key_branch = inputs.branches[:, None, :]
        seen &= (key_branch == 0) | (key_branch == inputs.branches[:, :, None])
    if causal:
        seen &= jnp.tri(inputs.ids.shape[1], dtype=bool)
    return seen


def windowed(
    view: View, window: int, queries: Int[Array, "rows seq"], keys: Int[Array, "rows kv_seq"], prefix: int
) -> View:
    """Returns a view that ends `window` positions before each token, itself counted.

    Args:
      queries, keys: positions of the tokens and of what they see.
      prefix: length of the prefix, whose keys have the positions from 0 up.
    """
    row = view.row & (keys[:, None, :] > queries[:, :, None] - window)
    behind = jnp.arange(prefix) > queries[:, :, None] - window if prefix else None
    return view.replace(row=row, prefix=behind)


def check_implementation(
    name: str, dtype: Any, head_dim: int, softcap: float | None, kv_heads: int = 1, shards: int = 1
) -> str:
    """Returns `name`; raises InputError if attention has none of it, or not for such a model on this machine.

    Args:
      dtype: of queries, keys and values.
      head_dim: width of a head.
      softcap: as in `attend`.
      kv_heads: heads of keys and values.
      shards: over how many devices heads are split.
    """
    if name not in IMPLEMENTATIONS:
        raise InputError(f"unknown attention {name!r}{did_you_mean(name, IMPLEMENTATIONS)}")
    if name == "cudnn":
        remedy = ": set attention=xla"
        if jax.default_backend() != "gpu":
            raise InputError(
                f"attention=cudnn needs an NVIDIA GPU, this process runs on {jax.default_backend()}{remedy}"
            )
        if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
            raise InputError(f"attention=cudnn has no {jnp.dtype(dtype)}{remedy}, or dtype=bfloat16")
        if softcap is not None:
            raise InputError(f"attention=cudnn cannot cap attention logits, this model does at {softcap}{remedy}")
        if head_dim % 8 or head_dim > CUDNN_HEAD_DIM:
            raise InputError(
                f"attention=cudnn needs heads of a multiple of 8 and at most {CUDNN_HEAD_DIM}, this model's have "
                f"{head_dim}{remedy}"
            )
        if kv_heads % shards:
            raise InputError(
                f"attention=cudnn cannot split {kv_heads} heads of keys over {shards} devices: lower mesh.tensor, or set "
                "attention=xla"
            )
    return name


def attend(
    q: Float[Array, "rows seq heads head_dim"],
    k: Float[Array, "rows kv_seq kv_heads head_dim"],
    v: Float[Array, "rows kv_seq kv_heads head_dim"],
    view: View,
    *,
    scale: float,
    softcap: float | None = None,
    prefix_keys: Float[Array, "prefix kv_heads head_dim"] | None = None,
    prefix_values: Float[Array, "prefix kv_heads head_dim"] | None = None,
    implementation: str = "xla",
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention to the row's own keys and to a prefix that all rows share.

    Logits and softmax are float32; the probabilities have the type of the values. Grouped queries never repeat keys or
    values. The one place that chooses how attention is computed: `implementation` is one of `IMPLEMENTATIONS`, and fits
    (`check_implementation`).
    """
    seq, on_cpu = q.shape[1], jax.default_backend() == "cpu"
    # On an accelerator each product is a kernel and each pass over the logits goes through its memory: one product and
    # one softmax of [prefix, row], for a copy of the prefix to every row. Not for single new tokens, which a cache would
    # be copied for.
    if prefix_keys is not None and seq > 1 and not (on_cpu and implementation == "xla"):
        k, v, view = _joined(k, v, view, prefix_keys, prefix_values)
        prefix_keys = prefix_values = None
    # cuDNN has no backward pass for an odd number of queries: scored positions and prompts of such a number are few.
    if implementation == "cudnn" and seq % 2 == 0:
        return _attend_cudnn(q, k, v, view, scale)
    size = max(QUERY_BLOCK if on_cpu else ACCELERATOR_QUERY_BLOCK, -(-seq // QUERY_BLOCKS))
    if not view.causal or seq < 2 * size:
        return _attend_xla(q, k, v, view, scale, softcap, prefix_keys, prefix_values)
    # Of a causal row the upper triangle is nothing: each block of queries is given the keys up to its own end.
    ahead, blocks = k.shape[1] - seq, [(start, min(start + size, seq)) for start in range(0, seq, size)]
    return jnp.concatenate(
        [
            _attend_xla(
                *(q[:, start:stop], k[:, : ahead + stop], v[:, : ahead + stop], view.upto(start, stop, ahead)),
                *(scale, softcap, prefix_keys, prefix_values),
            )
            for start, stop in blocks
        ],
        axis=1,
    )


def _joined(k, v, view, prefix_keys, prefix_values):
    """The keys and values of prefix and row as those of the row, and what is seen of them."""
    prefix = prefix_keys.shape[0]
    k, v = (
        jnp.concatenate([jnp.broadcast_to(ahead, (k.shape[0], *ahead.shape)), own], axis=1)
        for ahead, own in ((prefix_keys, k), (prefix_values, v))
    )
    ahead = jnp.ones((1, 1, 1), bool) if view.prefix is None else view.prefix
    seen = jnp.concatenate([jnp.broadcast_to(ahead, (*view.row.shape[:2], prefix)), view.row], axis=2)
    bias = view.row_bias
    if bias is not None:
        ahead = jnp.zeros((1, 1, 1, 1), bias.dtype) if view.prefix_bias is None else view.prefix_bias
        alike = max(ahead.shape[0], bias.shape[0])
        parts = ((ahead, prefix), (bias, bias.shape[3]))
        bias = jnp.concatenate([jnp.broadcast_to(x, (alike, *bias.shape[1:3], n)) for x, n in parts], axis=3)
    return k, v, View(seen, row_bias=bias, causal=view.causal)


def _attend_cudnn(q, k, v, view, scale):
    """The same by one kernel of cuDNN, through `jax.nn.dot_product_attention`, which knows no prefix."""
    seen, bias = view.row, view.row_bias
    odd = k.shape[1] % 2  # as for the queries
    if odd:
        k, v = (jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) for x in (k, v))
        seen = jnp.pad(seen, ((0, 0), (0, 0), (0, odd)))
        bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, odd)))
    bias = None if bias is None else bias.astype(q.dtype)
    return jax.nn.dot_product_attention(q, k, v, bias, seen[:, None], scale=scale, implementation="cudnn")


def _attend_xla(q, k, v, view, scale, softcap, prefix_keys, prefix_values):
    rows, seq, heads, head_dim = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    # r rows, k heads of keys, q queries of the heads that share them, t keys, p prefix, d head_dim. In this order no
    # product has to reorder its operands or the logits.
    q = q.reshape(rows, seq, kv_heads, group, head_dim).swapaxes(1, 2).reshape(rows, kv_heads, seq * group, head_dim)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)

    def finish(logits, seen, bias):
        logits = logits * scale
        if softcap is not None:
            logits = softcap * jnp.tanh(logits / softcap)
        if bias is not None:
            apart = bias.reshape(bias.shape[0], kv_heads, group, *bias.shape[2:]).swapaxes(2, 3)
            logits = logits + apart.reshape(bias.shape[0], kv_heads, seq * group, -1)
        if seen is None:
            return logits
        return jnp.where(jnp.repeat(seen, group, axis=1)[:, None], logits, jnp.finfo(jnp.float32).min)

    logits = wide_einsum("rkqd,rktd->rkqt", q, k)
    logits = finish(logits, view.row, view.row_bias)
    peak = logits.max(-1, keepdims=True)
    if prefix_keys is not None:
        prefix_logits = wide_einsum("rkqd,pkd->rkqp", q, prefix_keys)
        prefix_logits = finish(prefix_logits, view.prefix, view.prefix_bias)
        peak = jnp.maximum(peak, prefix_logits.max(-1, keepdims=True))
    # The softmax over [prefix, row] without concatenating the two: a common peak, a common sum, one division at the
    # end. A third faster than the concatenation, forward and backward, on CPU.
    peak = jax.lax.stop_gradient(peak)
    weights = jnp.exp(logits - peak)
    total = weights.sum(-1)
    out = wide_einsum("rkqt,rktd->rkqd", weights.astype(v.dtype), v)
    if prefix_keys is not None:
        prefix_weights = jnp.exp(prefix_logits - peak)
        total += prefix_weights.sum(-1)
        out += wide_einsum("rkqp,pkd->rkqd", prefix_weights.astype(v.dtype), prefix_values)
    out = (out / total[..., None]).astype(v.dtype)
    out = out.reshape(rows, kv_heads, seq, group, head_dim).swapaxes(1, 2)
    return out.reshape(rows, seq, heads, head_dim)
