"""Flash attention for TPUs, with any mask that the heads share.

The kernels that come with JAX take masks that are known when a program is compiled, and segments; in ours all segments
see a prompt, windows are counted in positions, and branches see what is before them. Here a mask is an array, read once
for all heads that share keys; blocks of it with nothing in them cost nothing. Forward pass and gradient follow Dao,
FlashAttention-2 (arXiv 2307.08691): algorithms 1 and 2, the gradient in two kernels, so that each sums in one order.

Suffixes name axes as in `ops.attention`; c is 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

# What a policy of `models.stack.REMAT_POLICIES` names to keep the output for the backward pass.
SAVED = "flash attention"
LANES = 128
MAX_BLOCK = 512
# Of a TPU's 128 MB beside its matrix units.
VMEM_BYTES = 64 << 20
_NOTHING = -0.7 * float(jnp.finfo(jnp.float32).max)


def flash_attend(
    q_rshd: Float[Array, "rows seq heads head_dim"],
    k_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    v_rtkd: Float[Array, "rows kv_seq kv_heads head_dim"],
    seen_rst: Bool[Array, "#rows seq kv_seq"],
    scale: float | Float[Array, ""],
    softcap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "rows seq heads head_dim"]:
    """Softmax attention; logits and softmax are float32, the probabilities have the type of the values.

    Args:
      seen_rst: which keys each token sees; one row stands for all. A token that sees none gets numbers without meaning.
      scale: factor on the logits; no gradient reaches it.
      softcap: logits are squeezed into (-cap, cap) by a tanh.
      interpret: runs the kernels by JAX's interpreter, on any machine.
    """
    (rows, seq, heads, _), kv_heads = q_rshd.shape, k_rtkd.shape[2]
    block_q, block_k = block_size(seq), block_size(k_rtkd.shape[1])
    q_rksgd = q_rshd.reshape(rows, seq, kv_heads, heads // kv_heads, -1)
    q_rkgsd = _padded(q_rksgd.transpose(0, 2, 3, 1, 4), 3, block_q)
    k_rktd, v_rktd = (_padded(x.swapaxes(1, 2), 2, block_k) for x in (k_rtkd, v_rtkd))
    seen_rst = _padded(_padded(seen_rst.astype(jnp.int8), 1, block_q), 2, block_k)
    # Which blocks of the mask have something in them.
    shape = (seen_rst.shape[0], seen_rst.shape[1] // block_q, block_q, seen_rst.shape[2] // block_k, block_k)
    used = seen_rst.reshape(shape).max((2, 4)).astype(jnp.int32)
    scale = jnp.full(1, scale, jnp.float32)
    y_rkgsd = _attend((block_q, block_k, softcap, interpret), scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used)
    return y_rkgsd[:, :, :, :seq].transpose(0, 3, 1, 2, 4).reshape(q_rshd.shape)


def block_size(length: int) -> int:
    """Returns how many tokens to take at once of so many: a multiple of 128, the largest that pads least."""
    if length <= MAX_BLOCK:
        return -(-length // LANES) * LANES
    return min(range(MAX_BLOCK, MAX_BLOCK // 2 - 1, -LANES), key=lambda size: -length % size)


def _padded(x, axis: int, multiple: int):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used):
    return _forward(static, scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used)[0]


def _forward(static, scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used):
    block_q, block_k, softcap, interpret = static
    specs = _Specs(q_rkgsd, k_rktd, seen_rst, block_q, block_k, by_key=False)
    group, width = specs.group, q_rkgsd.shape[-1]
    statistic = pltpu.VMEM((group, block_q, LANES), jnp.float32)
    y_rkgsd, total_rkgs = specs.call(
        functools.partial(_forward_kernel, softcap=softcap),
        inputs=(specs.query, specs.key, specs.key, specs.seen),
        outputs=(specs.query, specs.statistic),
        out_shape=(
            jax.ShapeDtypeStruct(q_rkgsd.shape, v_rktd.dtype),
            jax.ShapeDtypeStruct(q_rkgsd.shape[:-1], jnp.float32),
        ),
        scratch=(statistic, statistic, pltpu.VMEM((group, block_q, width), jnp.float32)),
        interpret=interpret,
    )(used, scale, q_rkgsd, k_rktd, v_rktd, seen_rst)
    y_rkgsd, total_rkgs = checkpoint_name(y_rkgsd, SAVED), checkpoint_name(total_rkgs, SAVED)
    return y_rkgsd, (scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used, y_rkgsd, total_rkgs)


def _backward(static, kept, dy_rkgsd):
    block_q, block_k, softcap, interpret = static
    scale, q_rkgsd, k_rktd, v_rktd, seen_rst, used, y_rkgsd, total_rkgs = kept
    mean_rkgs = (dy_rkgsd.astype(jnp.float32) * y_rkgsd.astype(jnp.float32)).sum(-1)
    arrays = used, scale, q_rkgsd, k_rktd, v_rktd, seen_rst, dy_rkgsd, total_rkgs, mean_rkgs

    def gradients(kernel, by_key, of, scratch_shape):
        specs = _Specs(q_rkgsd, k_rktd, seen_rst, block_q, block_k, by_key)
        spec = specs.key if by_key else specs.query
        return specs.call(
            functools.partial(kernel, softcap=softcap),
            inputs=(specs.query, specs.key, specs.key, specs.seen, specs.query, specs.statistic, specs.statistic),
            outputs=(spec,) * len(of),
            out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in of),
            scratch=(pltpu.VMEM(scratch_shape, jnp.float32),) * len(of),
            interpret=interpret,
        )(*arrays)

    width = q_rkgsd.shape[-1]
    (dq_rkgsd,) = gradients(_dq_kernel, False, (q_rkgsd,), (q_rkgsd.shape[2], block_q, width))
    dk_rktd, dv_rktd = gradients(_dkv_kernel, True, (k_rktd, v_rktd), (block_k, width))
    return None, dq_rkgsd, dk_rktd, dv_rktd, None, None


_attend.defvjp(_forward, _backward)


class _Specs:
    """Which blocks of the arrays a step of a kernel is given.

    The grid is (rows, heads of keys, blocks of queries, blocks of keys), the last two the other way round `by_key`: the
    innermost is what a step adds up.
    """

    def __init__(self, q_rkgsd, k_rktd, seen_rst, block_q: int, block_k: int, by_key: bool):
        rows, kv_heads, self.group, seq, width = q_rkgsd.shape
        blocks = seq // block_q, k_rktd.shape[2] // block_k
        self.grid = (rows, kv_heads, *(blocks[::-1] if by_key else blocks))
        shared = seen_rst.shape[0] == 1

        def spec(shape, at):
            def index(row, head, a, b, used, scale):
                return at(row, head, *((b, a) if by_key else (a, b)))

            return pl.BlockSpec(shape, index)

        self.query = spec((1, 1, self.group, block_q, width), lambda r, k, i, j: (r, k, 0, i, 0))
        self.statistic = spec((1, 1, self.group, block_q), lambda r, k, i, j: (r, k, 0, i))
        self.key = spec((1, 1, block_k, width), lambda r, k, i, j: (r, k, j, 0))
        self.seen = spec((1, block_q, block_k), lambda r, k, i, j: (0 if shared else r, i, j))
        self.is_used = lambda used: used[
            0 if shared else pl.program_id(0), pl.program_id(3 if by_key else 2), pl.program_id(2 if by_key else 3)
        ]

    def call(self, kernel, inputs, outputs, out_shape, scratch, interpret):
        """The kernel over the grid; told whether a step is the first or the last that it adds up, and of use at all."""

        def run(used_ref, scale_ref, *refs):
            first, last = pl.program_id(3) == 0, pl.program_id(3) == pl.num_programs(3) - 1
            kernel(*refs, scale=scale_ref[0], first=first, used=self.is_used(used_ref) > 0, last=last)

        grid_spec = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=self.grid, in_specs=inputs, out_specs=outputs, scratch_shapes=scratch
        )
        params = pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        )
        return pl.pallas_call(
            run, grid_spec=grid_spec, out_shape=out_shape, compiler_params=params, interpret=interpret
        )


def _product(a: Any, b: Any, axes: tuple[int, int]):
    """Float32 sums over one axis of each; float32 operands are multiplied as such."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def _logits(q_sd, k_td, seen_st, scale, softcap):
    """Masked logits, and the tanh of the cap if there is one."""
    logits_st, squeezed = scale * _product(q_sd, k_td, (1, 1)), None
    if softcap is not None:
        squeezed = jnp.tanh(logits_st / softcap)
        logits_st = softcap * squeezed
    return jnp.where(seen_st, logits_st, _NOTHING), squeezed


def _forward_kernel(
    q_ref, k_ref, v_ref, seen_ref, y_ref, total_ref, peaks, sums, out, *, scale, first, used, last, softcap
):
    @pl.when(first)
    def start():
        peaks[...] = jnp.full_like(peaks, _NOTHING)
        sums[...] = jnp.zeros_like(sums)
        out[...] = jnp.zeros_like(out)

    @pl.when(used)
    def add():
        k_td, v_td, seen_st = k_ref[0, 0], v_ref[0, 0], seen_ref[0].astype(jnp.int32) > 0
        for head in range(q_ref.shape[2]):
            logits_st, _ = _logits(q_ref[0, 0, head], k_td, seen_st, scale, softcap)
            old_sc = peaks[head, :, :1]
            peak_sc = jnp.maximum(old_sc, logits_st.max(1, keepdims=True))
            weights_st, shrink_sc = jnp.exp(logits_st - peak_sc), jnp.exp(old_sc - peak_sc)
            sum_sc = shrink_sc * sums[head, :, :1] + weights_st.sum(1, keepdims=True)
            peaks[head] = jnp.broadcast_to(peak_sc, peaks.shape[1:])
            sums[head] = jnp.broadcast_to(sum_sc, sums.shape[1:])
            out[head] = shrink_sc * out[head] + _product(weights_st.astype(v_td.dtype), v_td, (1, 0))

    @pl.when(last)
    def end():
        for head in range(q_ref.shape[2]):
            sum_sc = jnp.maximum(sums[head], 1e-30)
            y_ref[0, 0, head] = (out[head] / sum_sc[:, :1]).astype(y_ref.dtype)
            total_ref[0, 0, head] = (peaks[head] + jnp.log(sum_sc)).T[0]


def _weights_and_gradient(q_sd, k_td, v_td, seen_st, dy_sd, total_s, mean_s, scale, softcap):
    """Probabilities, and the gradient of the products of queries and keys."""
    logits_st, squeezed = _logits(q_sd, k_td, seen_st, scale, softcap)
    weights_st = jnp.exp(logits_st - total_s[:, None])
    d_st = weights_st * (_product(dy_sd, v_td, (1, 1)) - mean_s[:, None])
    if squeezed is not None:
        d_st *= 1 - squeezed * squeezed
    return weights_st, scale * d_st


def _dq_kernel(
    q_ref, k_ref, v_ref, seen_ref, dy_ref, total_ref, mean_ref, dq_ref, dq, *, scale, first, used, last, softcap
):
    @pl.when(first)
    def start():
        dq[...] = jnp.zeros_like(dq)

    @pl.when(used)
    def add():
        k_td, v_td, seen_st = k_ref[0, 0], v_ref[0, 0], seen_ref[0].astype(jnp.int32) > 0
        for head in range(q_ref.shape[2]):
            given = (x[0, 0, head] for x in (dy_ref, total_ref, mean_ref))
            _, d_st = _weights_and_gradient(q_ref[0, 0, head], k_td, v_td, seen_st, *given, scale, softcap)
            dq[head] += _product(d_st.astype(k_td.dtype), k_td, (1, 0))

    @pl.when(last)
    def end():
        dq_ref[0, 0] = dq[...].astype(dq_ref.dtype)


def _dkv_kernel(
    q_ref,
    k_ref,
    v_ref,
    seen_ref,
    dy_ref,
    total_ref,
    mean_ref,
    dk_ref,
    dv_ref,
    dk,
    dv,
    *,
    scale,
    first,
    used,
    last,
    softcap,
):
    @pl.when(first)
    def start():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    @pl.when(used)
    def add():
        k_td, v_td, seen_st = k_ref[0, 0], v_ref[0, 0], seen_ref[0].astype(jnp.int32) > 0
        for head in range(q_ref.shape[2]):
            q_sd, dy_sd = q_ref[0, 0, head], dy_ref[0, 0, head]
            statistics = total_ref[0, 0, head], mean_ref[0, 0, head]
            weights_st, d_st = _weights_and_gradient(q_sd, k_td, v_td, seen_st, dy_sd, *statistics, scale, softcap)
            dv[...] += _product(weights_st.astype(dy_sd.dtype), dy_sd, (0, 0))
            dk[...] += _product(d_st.astype(q_sd.dtype), q_sd, (0, 0))

    @pl.when(last)
    def end():
        dk_ref[0, 0] = dk[...].astype(dk_ref.dtype)
        dv_ref[0, 0] = dv[...].astype(dv_ref.dtype)
