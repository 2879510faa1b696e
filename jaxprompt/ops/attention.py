"""The attention that every backbone uses; `ops.views` says which tokens see which.

A suffix names an array's axes, here and in `models`: r rows, s the tokens of a row (as queries), n those of them that are
asked for, t the tokens that are seen (as keys), p the prefix, h heads, k heads of keys and values, g the heads that share
one of those, q the queries of these heads together, d the width of a head, e that of the hidden states.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.machine.sharding import ROW_AXES, is_part, row_shards
from jaxprompt.ops.flash import fits, flash_attend
from jaxprompt.ops.products import wide_einsum
from jaxprompt.ops.views import View

# How attention is computed: by einsums that XLA compiles for any device, by cuDNN's flash attention on a GPU, or by that
# of `ops.flash` on a TPU.
IMPLEMENTATIONS = ("xla", "cudnn", "pallas")
# Causal rows of twice this many tokens are attended to in blocks, but in no more than so many: each is compiled.
QUERY_BLOCK = 128
ACCELERATOR_QUERY_BLOCK = 256
QUERY_BLOCKS = 4
# Of rows with more logits than these (a head's), those of a block of queries alone are held at once, forward and backward.
LONG_LOGITS, BLOCK_LOGITS = 1 << 22, 1 << 20
# The widest head that cuDNN's backward pass takes on every GPU that it runs on.
CUDNN_HEAD_DIM = 128
# Blocks of fewer queries would be padding for the most part.
PALLAS_QUERIES = 64

KeysValues = tuple[Float[Array, "*tokens kv_heads head_dim"], Float[Array, "*tokens kv_heads head_dim"]]


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """How logits are scaled, and what computes them.

    Attributes:
      scale: factor on the logits; an array where it is not known before the program runs.
      softcap: the logits are squeezed into (-cap, cap) by a tanh; None: they are not.
      implementation: one of `IMPLEMENTATIONS`, that fits (`choose_implementation`).
      mesh: on which rows and heads are split.
    """

    scale: float | Float[Array, ""]
    softcap: float | None = None
    implementation: str = "xla"
    mesh: Mesh | None = None


def choose_implementation(
    name: str, dtype: Any, head_dim: int, softcap: float | None, kv_heads: int = 1, shards: int = 1
) -> tuple[str, str]:
    """Returns how attention is computed, and why not by what is made for this machine.

    Args:
      name: one of `IMPLEMENTATIONS`; or "auto", what is made for this machine where it can be, else "xla".
      dtype: of queries, keys and values.
      head_dim: width of a head.
      softcap: as in `AttentionOptions`.
      kv_heads: heads of keys and values.
      shards: over how many devices heads are split.

    Raises:
      InputError: there is none of this name, or not for such a model on this machine.
    """
    if name != "auto" and name not in IMPLEMENTATIONS:
        raise InputError(f"unknown attention {name!r}{did_you_mean(name, ('auto', *IMPLEMENTATIONS))}")
    backend = jax.default_backend()
    wanted = {"tpu": "pallas", "gpu": "cudnn"}.get(backend, "xla") if name == "auto" else name
    reason = _refusal(wanted, backend, dtype, head_dim, softcap, kv_heads, shards)
    if reason and name != "auto":
        raise InputError(f"attention={name} {reason}: set attention=auto")
    return ("xla" if reason else wanted), (f"{wanted} {reason}" if reason else "")


def _refusal(name, backend, dtype, head_dim, softcap, kv_heads, shards) -> str:
    """Why attention cannot be computed so; empty: it can."""
    if name == "xla":
        return ""
    if kv_heads % shards:
        return f"cannot split {kv_heads} heads of keys over {shards} devices (mesh.tensor)"
    if name == "pallas":
        return "" if backend == "tpu" else f"needs a TPU, this process runs on {backend}"
    if backend != "gpu":
        return f"needs an NVIDIA GPU, this process runs on {backend}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"has no {jnp.dtype(dtype)} (dtype=bfloat16 it has)"
    if softcap is not None:
        return f"cannot cap attention logits, this model does at {softcap}"
    if head_dim % 8 or head_dim > CUDNN_HEAD_DIM:
        return f"needs heads of a multiple of 8 and at most {CUDNN_HEAD_DIM}, this model's have {head_dim}"
    return ""


@jax.named_scope("attend")
def attend(
    q_rshd: Float[Array, "rows seq heads head_dim"],
    k_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    v_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    view: View,
    options: AttentionOptions,
    prefix: KeysValues | None = None,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention to the row's own keys and to a prefix that all rows share, `[prefix, kv_heads, head_dim]` each.

    Logits and softmax are float32; the probabilities have the type of the values. Grouped queries never repeat keys or
    values. The one place that chooses how attention is computed.
    """
    seq, implementation, on_cpu = q_rshd.shape[1], options.implementation, jax.default_backend() == "cpu"
    if implementation == "pallas" and seq >= PALLAS_QUERIES and fits(k_rtkd, prefix):
        return _attend_pallas(q_rshd, k_rtkd, v_rtkd, view, options, prefix)
    # On an accelerator each product is a kernel and each pass over the logits goes through its memory: one product and
    # one softmax of [prefix, row], for a copy of the prefix to every row. Not for single new tokens, which a cache would
    # be copied for.
    if prefix is not None and seq > 1 and not (on_cpu and implementation == "xla"):
        k_rtkd, v_rtkd, view = _with_prefix(k_rtkd, v_rtkd, view, prefix)
        prefix = None
    # cuDNN has no backward pass for an odd number of queries: scored positions and prompts of such a number are few.
    if implementation == "cudnn" and seq % 2 == 0:
        return _attend_cudnn(q_rshd, k_rtkd, v_rtkd, view, options)

    # Of a causal row the upper triangle is nothing: each block of queries is given the keys up to its own end.
    size = max(QUERY_BLOCK if on_cpu else ACCELERATOR_QUERY_BLOCK, -(-seq // QUERY_BLOCKS))
    shared = 0 if prefix is None else prefix[0].shape[0]
    by_einsums = _attend_xla if seq * (shared + k_rtkd.shape[1]) <= LONG_LOGITS else _attend_in_blocks
    if not view.causal or seq < 2 * size:
        return by_einsums(q_rshd, k_rtkd, v_rtkd, view, options, prefix)
    ahead, blocks = k_rtkd.shape[1] - seq, []
    for start in range(0, seq, size):
        stop = min(start + size, seq)
        q, k, v = q_rshd[:, start:stop], k_rtkd[:, : ahead + stop], v_rtkd[:, : ahead + stop]
        blocks.append(by_einsums(q, k, v, view.upto(start, stop, ahead), options, prefix))
    return jnp.concatenate(blocks, axis=1)


@jax.named_scope("gated")
def attend_gated(
    q_rshd: Float[Array, "rows seq heads head_dim"],
    keys_values: KeysValues,
    gate_h: Float[Array, " heads"],
    options: AttentionOptions,
) -> Float[Array, "rows seq heads head_dim"]:
    """Attention to keys `[prefix, kv_heads, head_dim]` that all tokens see, by a softmax of its own, times a gate per head.

    To be added to what `attend` gives (Zhang et al. 2023, arXiv:2303.16199). They are few, and no mask is on them: XLA
    computes it on every device, whatever computes the rest.
    """
    (rows, seq, heads, head_dim), (k_pkd, v_pkd) = q_rshd.shape, keys_values
    kv_heads = k_pkd.shape[1]
    q_rskgd = q_rshd.reshape(rows, seq, kv_heads, heads // kv_heads, head_dim)
    logits_rskgp = wide_einsum("rskgd,pkd->rskgp", q_rskgd, k_pkd) * options.scale
    if options.softcap is not None:
        logits_rskgp = options.softcap * jnp.tanh(logits_rskgp / options.softcap)
    weights_rskgp = jax.nn.softmax(logits_rskgp) * gate_h.reshape(kv_heads, -1, 1)
    out_rskgd = wide_einsum("rskgp,pkd->rskgd", weights_rskgp.astype(v_pkd.dtype), v_pkd)
    return out_rskgd.astype(v_pkd.dtype).reshape(q_rshd.shape)


def _with_prefix(k_rtkd, v_rtkd, view, prefix):
    """The keys and values of prefix and row as those of the row, and what is seen of them."""
    rows, length = k_rtkd.shape[0], prefix[0].shape[0]
    k_rtkd, v_rtkd = (
        jnp.concatenate([jnp.broadcast_to(shared_pkd, (rows, *shared_pkd.shape)), own_rtkd], axis=1)
        for shared_pkd, own_rtkd in zip(prefix, (k_rtkd, v_rtkd), strict=True)
    )
    seen_rsp = jnp.ones((1, 1, 1), bool) if view.prefix is None else view.prefix
    seen = jnp.concatenate([jnp.broadcast_to(seen_rsp, (*view.row.shape[:2], length)), view.row], axis=2)
    bias = view.row_bias
    if bias is not None:
        ahead = jnp.zeros((1, 1, 1, 1), bias.dtype) if view.prefix_bias is None else view.prefix_bias
        alike = max(ahead.shape[0], bias.shape[0])
        parts = ((ahead, length), (bias, bias.shape[3]))
        bias = jnp.concatenate([jnp.broadcast_to(x, (alike, *bias.shape[1:3], n)) for x, n in parts], axis=3)
    return k_rtkd, v_rtkd, View(seen, row_bias=bias, causal=view.causal)


def _attend_cudnn(q_rshd, k_rtkd, v_rtkd, view, options):
    """The same by one kernel of cuDNN, through `jax.nn.dot_product_attention`, which knows no prefix."""
    scale, seen, bias = options.scale, view.row, view.row_bias
    if isinstance(scale, jax.Array):  # the kernel's is part of the program
        q_rshd, scale = (q_rshd * scale).astype(q_rshd.dtype), 1.0
    odd = k_rtkd.shape[1] % 2  # as for the queries
    if odd:
        k_rtkd, v_rtkd = (jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) for x in (k_rtkd, v_rtkd))
        seen = jnp.pad(seen, ((0, 0), (0, 0), (0, odd)))
        bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, odd)))
    bias = None if bias is None else bias.astype(q_rshd.dtype)
    return jax.nn.dot_product_attention(
        q_rshd, k_rtkd, v_rtkd, bias, seen[:, None], scale=scale, implementation="cudnn"
    )


def _attend_pallas(q_rshd, k_rtkd, v_rtkd, view, options, prefix):
    """The same by the kernels of `ops.flash`, device by device: the compiler cannot split them."""
    mesh, interpret = options.mesh, jax.default_backend() != "tpu"
    scale = jnp.asarray(options.scale, jnp.float32)

    def attend_part(q, k, v, seen, scale, prefix, seen_of_prefix, biases):
        return flash_attend(q, k, v, seen, scale, options.softcap, prefix, seen_of_prefix, biases, interpret)

    biases = view.row_bias, view.prefix_bias
    arguments = q_rshd, k_rtkd, v_rtkd, view.row, scale, prefix, view.prefix, biases
    if mesh is None or mesh.size == 1 or is_part():
        return attend_part(*arguments)
    rows = ROW_AXES if q_rshd.shape[0] % row_shards(mesh) == 0 else None
    heads = "tensor" if k_rtkd.shape[2] % mesh.shape["tensor"] == 0 else None
    tokens, shared = PartitionSpec(rows, None, heads, None), PartitionSpec(None, heads, None)

    def by_row(array, *axes):
        return PartitionSpec(rows if array is not None and array.shape[0] > 1 else None, *axes)

    of_biases = tuple(by_row(bias, heads) for bias in biases)
    specs = (tokens, tokens, tokens, by_row(view.row), PartitionSpec(), shared, by_row(view.prefix), of_biases)
    split = jax.shard_map(attend_part, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)
    return split(*arguments)


def _attend_in_blocks(q_rshd, k_rtkd, v_rtkd, view, options, prefix):
    """As `_attend_xla`, a block of queries after the other, each of which the backward pass computes again."""
    seq, keys = q_rshd.shape[1], k_rtkd.shape[1] + (0 if prefix is None else prefix[0].shape[0])
    count = -(-seq // max(BLOCK_LOGITS // keys, 1))
    size = -(-seq // count)

    def split(array, axis):
        """`[blocks, ...]`, with queries of nothing behind the last ones."""
        if array is None or array.shape[axis] == 1:
            return None if array is None else jnp.broadcast_to(array, (count, *array.shape))
        padded = jnp.pad(array, [(0, count * size - seq if at == axis else 0) for at in range(array.ndim)])
        apart = padded.reshape(*array.shape[:axis], count, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(apart, axis, 0)

    @jax.checkpoint
    def attend_block(block):
        q, row, of_prefix, row_bias, prefix_bias = block
        return _attend_xla(q, k_rtkd, v_rtkd, View(row, of_prefix, row_bias, prefix_bias), options, prefix)

    blocks = (
        split(q_rshd, 1),
        split(view.row, 1),
        split(view.prefix, 1),
        split(view.row_bias, 2),
        split(view.prefix_bias, 2),
    )
    out = jnp.moveaxis(jax.lax.map(attend_block, blocks), 0, 1)
    return out.reshape(q_rshd.shape[0], count * size, *q_rshd.shape[2:])[:, :seq]


def _attend_xla(q_rshd, k_rtkd, v_rtkd, view, options, prefix):
    rows, seq, heads, head_dim = q_rshd.shape
    kv_heads, group = k_rtkd.shape[2], heads // k_rtkd.shape[2]
    # In this order no product has to reorder its operands or the logits.
    q_rksgd = q_rshd.reshape(rows, seq, kv_heads, group, head_dim).swapaxes(1, 2)
    q_rkqd = q_rksgd.reshape(rows, kv_heads, seq * group, head_dim)
    k_rktd, v_rktd = k_rtkd.swapaxes(1, 2), v_rtkd.swapaxes(1, 2)

    def finish(logits, seen, bias):
        logits = logits * options.scale
        if options.softcap is not None:
            logits = options.softcap * jnp.tanh(logits / options.softcap)
        if bias is not None:
            apart = bias.reshape(bias.shape[0], kv_heads, group, *bias.shape[2:]).swapaxes(2, 3)
            logits = logits + apart.reshape(bias.shape[0], kv_heads, seq * group, -1)
        if seen is None:
            return logits
        return jnp.where(jnp.repeat(seen, group, axis=1)[:, None], logits, jnp.finfo(jnp.float32).min)

    # The softmax over [prefix, row] without concatenating the two: a common peak, a common sum, one division at the
    # end. A third faster than the concatenation, forward and backward, on CPU.
    logits_rkqt = finish(wide_einsum("rkqd,rktd->rkqt", q_rkqd, k_rktd), view.row, view.row_bias)
    peak_rkq1 = logits_rkqt.max(-1, keepdims=True)
    if prefix is not None:
        k_pkd, v_pkd = prefix
        logits_rkqp = finish(wide_einsum("rkqd,pkd->rkqp", q_rkqd, k_pkd), view.prefix, view.prefix_bias)
        peak_rkq1 = jnp.maximum(peak_rkq1, logits_rkqp.max(-1, keepdims=True))
    peak_rkq1 = jax.lax.stop_gradient(peak_rkq1)

    weights_rkqt = jnp.exp(logits_rkqt - peak_rkq1)
    total_rkq = weights_rkqt.sum(-1)
    out_rkqd = wide_einsum("rkqt,rktd->rkqd", weights_rkqt.astype(v_rktd.dtype), v_rktd)
    if prefix is not None:
        weights_rkqp = jnp.exp(logits_rkqp - peak_rkq1)
        total_rkq += weights_rkqp.sum(-1)
        out_rkqd += wide_einsum("rkqp,pkd->rkqd", weights_rkqp.astype(v_rktd.dtype), v_pkd)
    out_rkqd = (out_rkqd / total_rkq[..., None]).astype(v_rktd.dtype)

    out_rskgd = out_rkqd.reshape(rows, kv_heads, seq, group, head_dim).swapaxes(1, 2)
    return out_rskgd.reshape(rows, seq, heads, head_dim)
