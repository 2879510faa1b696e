"""Flash attention for TPUs, to a row and to a prefix that all rows share.

The kernels that come with JAX take masks that are known when a program is compiled, and segments; in ours all segments
see a prefix, windows are counted in positions, and branches see what is before them. Here a mask is an array, read once
for all heads that share keys, and blocks of it with nothing in them cost nothing. The prefix is never copied to the rows,
and its gradient is summed over them where it arises. Forward pass and gradient follow Dao, FlashAttention-2 (arXiv
2307.08691), algorithms 1 and 2; all keys of a row lie in the chip's own memory, so that one kernel gives all gradients.

Suffixes name axes as in `ops.attention`; c is 1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

# What a policy of `models.stack.REMAT_POLICIES` names to keep what the backward pass needs.
SAVED = "flash attention"
LANES = 128
# Keys at a time, where there are more than `WHOLE`; and the most logits of a head at one time.
CHUNK = 512
WHOLE = 1280
LOGITS = 1 << 20
# The most numbers of a head's keys; of a TPU's 128 MB, the part that a kernel may take.
MAX_KEYS = 1 << 21
VMEM_BYTES = 100 << 20
_NOTHING = -0.7 * float(jnp.finfo(jnp.float32).max)


class _Keys(struct.PyTreeNode):
    """Keys and values, which of them are seen (int8, or None for all), and what is added to the logits."""

    k: Float[Array, "*rows kv_heads kv_seq head_dim"]
    v: Float[Array, "*rows kv_heads kv_seq head_dim"]
    seen: Any = None
    bias: Float[Array, "*rows kv_heads group seq kv_seq"] | None = None


def fits(k_rtkd: jax.Array, prefix: tuple[jax.Array, jax.Array] | None) -> bool:
    """Whether these keys, and those of the prefix, are few enough."""
    tokens = k_rtkd.shape[1] + (0 if prefix is None else prefix[0].shape[0])
    return tokens * max(k_rtkd.shape[-1], LANES) <= MAX_KEYS


def flash_attend(
    q_rshd: Float[Array, "rows seq heads head_dim"],
    k_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    v_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    seen_rst: Bool[Array, "#rows seq kv_seq"],
    scale: float | Float[Array, ""],
    softcap: float | None = None,
    prefix: tuple[Float[Array, "prefix kv_heads head_dim"], Float[Array, "prefix kv_heads head_dim"]] | None = None,
    seen_rsp: Bool[Array, "#rows seq prefix"] | None = None,
    biases: tuple[Float[Array, "#rows heads seq kv_seq"] | None, Float[Array, "#rows heads seq prefix"] | None] = (
        None,
        None,
    ),
    interpret: bool = False,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention; logits and softmax are float32, the probabilities have the type of the values.

    Args:
      seen_rst: which keys each token sees; one row stands for all. A token that sees none gets numbers without meaning.
      scale: factor on the logits; no gradient reaches it.
      softcap: logits are squeezed into (-cap, cap) by a tanh.
      prefix: keys and values that stand before those of every row.
      seen_rsp: which of them each token sees; None: all.
      biases: added to the logits of the row's keys, and of the prefix; no gradient reaches them.
      interpret: runs the kernels by JAX's interpreter, on any machine.
    """
    (rows, seq, heads, _), (kv_seq, kv_heads) = q_rshd.shape, k_rtkd.shape[1:3]
    block = block_size(seq, max(min(kv_seq, WHOLE), 0 if prefix is None else prefix[0].shape[0]))
    chunk = kv_seq if kv_seq <= WHOLE else CHUNK
    q_rksgd = q_rshd.reshape(rows, seq, kv_heads, heads // kv_heads, -1)
    q_rkgsd = _padded(q_rksgd.transpose(0, 2, 3, 1, 4), 3, block)
    k_rktd, v_rktd = (_padded(x.swapaxes(1, 2), 2, chunk) for x in (k_rtkd, v_rtkd))
    q_rkgsd, k_rktd, v_rktd = (checkpoint_name(x, SAVED) for x in (q_rkgsd, k_rktd, v_rktd))
    seen_rst = _padded(_padded(seen_rst.astype(jnp.int8), 1, block), 2, chunk)
    shape = (seen_rst.shape[0], seen_rst.shape[1] // block, block, seen_rst.shape[2] // chunk, chunk)
    used = seen_rst.reshape(shape).max((2, 4)).astype(jnp.int32)

    def apart(bias, chunk):
        """A bias by heads of keys."""
        if bias is None:
            return None
        bias = bias.astype(jnp.float32).reshape(bias.shape[0], kv_heads, -1, *bias.shape[2:])
        return _padded(_padded(bias, 3, block), 4, chunk)

    sources = [_Keys(k_rktd, v_rktd, seen_rst, apart(biases[0], chunk))]
    if prefix is not None:
        seen_rsp = None if seen_rsp is None else _padded(seen_rsp.astype(jnp.int8), 1, block)
        sources.append(_Keys(*(x.swapaxes(0, 1) for x in prefix), seen_rsp, apart(biases[1], 1)))
    scalars = used, jnp.full(1, scale, jnp.float32)
    y_rkgsd = _attend((block, chunk, softcap, interpret), scalars, q_rkgsd, sources)
    return y_rkgsd[:, :, :, :seq].transpose(0, 3, 1, 2, 4).reshape(q_rshd.shape)


def block_size(seq: int, keys: int) -> int:
    """Returns how many of so many queries to take at once: all, or a multiple of 128, the largest that pads least."""
    most = max(LANES, LOGITS // keys // LANES * LANES)
    if seq <= most:
        return seq
    return min(range(most, most // 2, -LANES), key=lambda size: -seq % size)


def _padded(x, axis: int, multiple: int):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, scalars, q_rkgsd, sources):
    return _forward(static, scalars, q_rkgsd, sources)[0]


def _forward(static, scalars, q_rkgsd, sources):
    block, _, _, _ = static
    statistic = pltpu.VMEM((block, LANES), jnp.float32)
    y_rkgsd, total_rkgs = _call(
        _forward_kernel,
        2,
        static,
        scalars,
        (q_rkgsd, sources),
        (_like(q_rkgsd), jax.ShapeDtypeStruct(q_rkgsd.shape[:-1], jnp.float32)),
        (statistic, statistic, pltpu.VMEM((block, q_rkgsd.shape[-1]), jnp.float32)),
    )
    y_rkgsd, total_rkgs = checkpoint_name(y_rkgsd, SAVED), checkpoint_name(total_rkgs, SAVED)
    return y_rkgsd, (scalars, q_rkgsd, sources, y_rkgsd, total_rkgs)


def _backward(static, kept, dy_rkgsd):
    scalars, q_rkgsd, sources, y_rkgsd, total_rkgs = kept
    mean_rkgs = (dy_rkgsd.astype(jnp.float32) * y_rkgsd.astype(jnp.float32)).sum(-1)
    keys = [(keys.k, keys.v) for keys in sources]
    gradients = [tuple(pltpu.VMEM(x.shape[-2:], jnp.float32) for x in pair) for pair in keys]
    dq_rkgsd, dkeys = _call(
        _backward_kernel,
        5,
        static,
        scalars,
        (q_rkgsd, sources, dy_rkgsd, total_rkgs, mean_rkgs),
        (_like(q_rkgsd), [tuple(map(_like, pair)) for pair in keys]),
        (pltpu.VMEM((static[0], q_rkgsd.shape[-1]), jnp.float32), gradients),
    )
    return None, dq_rkgsd, [_Keys(*pair) for pair in dkeys]


_attend.defvjp(_forward, _backward)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _call(kernel: Callable, products: int, static, scalars, inputs, out_shape, scratch):
    """Runs a kernel for each head of keys, row, and block of queries, in this order: what rows share adds up last.

    Args:
      products: how many it computes of queries and keys, for the compiler's plans.
    """
    block, chunk, softcap, interpret = static
    q_rkgsd = inputs[0]
    rows, kv_heads, _, seq, width = q_rkgsd.shape
    grid = kv_heads, rows, seq // block

    def spec(x) -> pl.BlockSpec:
        """Which part of an array a step is given."""
        shared = x.shape[0] < rows
        if x.dtype == jnp.int8:  # a mask
            return pl.BlockSpec((1, block, x.shape[2]), lambda k, r, i, *_: (0 if shared else r, i, 0))
        if x.ndim == 3:  # of the prefix
            return pl.BlockSpec((1, *x.shape[1:]), lambda k, r, i, *_: (k, 0, 0))
        if x.ndim == 4 and x.shape[2:] != q_rkgsd.shape[2:4]:
            return pl.BlockSpec((1, 1, *x.shape[2:]), lambda k, r, i, *_: (r, k, 0, 0))
        behind = x.shape[4:]
        at = (0,) * len(behind)
        return pl.BlockSpec((1, 1, x.shape[2], block, *behind), lambda k, r, i, *_: (0 if shared else r, k, 0, i, *at))

    def run(used_ref, scale_ref, *refs):
        row, queries = 0 if used_ref.shape[0] == 1 else pl.program_id(1), pl.program_id(2)
        step = _Step(chunk, softcap, scale_ref[0], lambda number: used_ref[row, queries, number] > 0)
        kernel(step, *jax.tree.unflatten(structure, refs))

    arrays, (out_leaves, out_structure) = jax.tree.leaves(inputs), jax.tree.flatten(out_shape)
    structure = jax.tree.structure((*inputs, *out_shape, *scratch))
    pairs = q_rkgsd.size // width * sum(keys.k.shape[-2] for keys in inputs[1])
    cost = pl.CostEstimate(
        flops=2 * products * pairs * width,
        transcendentals=pairs,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *out_leaves)),
    )
    call = pl.pallas_call(
        run,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[spec(x) for x in arrays],
            out_specs=list(map(spec, out_leaves)),
            scratch_shapes=jax.tree.leaves(scratch),
        ),
        out_shape=out_leaves,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=cost,
        interpret=interpret,
    )
    return out_structure.unflatten(call(*scalars, *arrays))


class _Step:
    """What the kernels share: a walk over the keys, and the logits of a part of them."""

    def __init__(self, chunk: int, softcap: float | None, scale: Any, used: Callable):
        self.chunk, self.softcap, self.scale, self.used = chunk, softcap, scale, used

    def over_keys(self, sources: list[_Keys], add: Callable) -> None:
        """Calls `add(number of the source, where, k_td, v_td, mask)` for each part of the keys that is seen.

        `mask(logits_st, head)` adds the bias and leaves out what is not seen.
        """
        for number, keys in enumerate(sources):
            shared = len(keys.k.shape) == 3
            head, length = (0,) if shared else (0, 0), keys.k.shape[-2]
            size = length if shared else self.chunk

            def part(at, number=number, keys=keys, head=head, size=size):
                where = pl.ds(at * size, size)
                seen_st = None if keys.seen is None else keys.seen[0, :, where].astype(jnp.int32) > 0

                def mask(logits_st, head):
                    if keys.bias is not None:
                        logits_st += keys.bias[0, 0, head, :, where]
                    return logits_st if seen_st is None else jnp.where(seen_st, logits_st, _NOTHING)

                add(number, where, keys.k[*head, where], keys.v[*head, where], mask)

            if shared:
                part(0)
            elif length == size:
                pl.when(self.used(0))(lambda part=part: part(0))
            else:

                @pl.loop(0, length // size)
                def _(at, part=part):
                    pl.when(self.used(at))(lambda: part(at))

    def logits(self, q_sd, k_td):
        """Logits, and the tanh of the cap if there is one."""
        logits_st, squeezed = self.scale * _product(q_sd, k_td, (1, 1)), None
        if self.softcap is not None:
            squeezed = jnp.tanh(logits_st / self.softcap)
            logits_st = self.softcap * squeezed
        return logits_st, squeezed


def _product(a: Any, b: Any, axes: tuple[int, int]):
    """Float32 sums over one axis of each; float32 operands are multiplied as such."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def _forward_kernel(step: _Step, q_ref, sources, y_ref, total_ref, peaks, sums, out):
    for head in range(q_ref.shape[2]):
        peaks[...] = jnp.full_like(peaks, _NOTHING)
        sums[...] = jnp.zeros_like(sums)
        out[...] = jnp.zeros_like(out)

        def add(_, __, k_td, v_td, mask, head=head):
            logits_st = mask(step.logits(q_ref[0, 0, head], k_td)[0], head)
            old_sc = peaks[:, :1]
            peak_sc = jnp.maximum(old_sc, logits_st.max(1, keepdims=True))
            weights_st, shrink_sc = jnp.exp(logits_st - peak_sc), jnp.exp(old_sc - peak_sc)
            sum_sc = shrink_sc * sums[:, :1] + weights_st.sum(1, keepdims=True)
            peaks[...] = jnp.broadcast_to(peak_sc, peaks.shape)
            sums[...] = jnp.broadcast_to(sum_sc, sums.shape)
            out[...] = shrink_sc * out[...] + _product(weights_st.astype(v_td.dtype), v_td, (1, 0))

        step.over_keys(sources, add)
        sum_sl = jnp.maximum(sums[...], 1e-30)
        y_ref[0, 0, head] = (out[...] / sum_sl[:, :1]).astype(y_ref.dtype)
        total_ref[0, 0, head] = (peaks[...] + jnp.log(sum_sl)).T[0]


def _backward_kernel(step: _Step, q_ref, sources, dy_ref, total_ref, mean_ref, dq_ref, dkeys_refs, dq, dkeys):
    first_block, last_block = pl.program_id(2) == 0, pl.program_id(2) == pl.num_programs(2) - 1
    first_row, last_row = pl.program_id(1) == 0, pl.program_id(1) == pl.num_programs(1) - 1
    for keys, sums in zip(sources, dkeys, strict=True):

        @pl.when(first_block & (first_row if len(keys.k.shape) == 3 else True))
        def start(sums=sums):
            for x in sums:
                x[...] = jnp.zeros_like(x)

    for head in range(q_ref.shape[2]):
        dq[...] = jnp.zeros_like(dq)

        def add(number, where, k_td, v_td, mask, head=head):
            q_sd, dy_sd = q_ref[0, 0, head], dy_ref[0, 0, head]
            logits_st, squeezed = step.logits(q_sd, k_td)
            weights_st = jnp.exp(mask(logits_st, head) - total_ref[0, 0, head][:, None])
            d_st = weights_st * (_product(dy_sd, v_td, (1, 1)) - mean_ref[0, 0, head][:, None])
            if squeezed is not None:
                d_st *= 1 - squeezed * squeezed
            d_st = (step.scale * d_st).astype(q_sd.dtype)
            dk, dv = dkeys[number]
            dk[where] += _product(d_st, q_sd, (0, 0))
            dv[where] += _product(weights_st.astype(dy_sd.dtype), dy_sd, (0, 0))
            dq[...] += _product(d_st, k_td, (1, 0))

        step.over_keys(sources, add)
        dq_ref[0, 0, head] = dq[...].astype(dq_ref.dtype)

    for keys, refs, sums in zip(sources, dkeys_refs, dkeys, strict=True):

        @pl.when(last_block & (last_row if len(keys.k.shape) == 3 else True))
        def end(refs=refs, sums=sums):
            for ref, x in zip(refs, sums, strict=True):
                ref[...] = x[...].astype(ref.dtype).reshape(ref.shape)
