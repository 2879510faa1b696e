import jax
import jax.numpy as jnp
import pytest

from jaxprompt.machine import hlo

# As XLA 0.10 prints a scan of products for a GPU, abridged.
PROGRAM = """HloModule jit_f

%gemm (parameter_0: bf16[4,16], parameter_1: bf16[16,8]) -> bf16[4,8] {
  %parameter_0 = bf16[4,16]{1,0} parameter(0)
  %parameter_1 = bf16[16,8]{1,0} parameter(1)
  %dot.1 = f32[4,8]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %convert.1 = bf16[4,8]{1,0} convert(%dot.1)
}

%slice (param_0.2: bf16[6,16,8], param_1.2: s32[]) -> bf16[1,16,8] {
  %param_0.2 = bf16[6,16,8]{2,1,0} parameter(0)
  %param_1.2 = s32[] parameter(1)
  %constant_0 = s32[] constant(0)
  ROOT %ds = bf16[1,16,8]{2,1,0} dynamic-slice(%param_0.2, %param_1.2, %constant_0), dynamic_slice_sizes={1,16,8}
}

%keep (param_0.3: bf16[6,4,8], param_1.3: bf16[4,8], param_2.3: s32[]) -> bf16[6,4,8] {
  %param_0.3 = bf16[6,4,8]{2,1,0} parameter(0)
  %param_1.3 = bf16[4,8]{1,0} parameter(1)
  %param_2.3 = s32[] parameter(2)
  %bitcast.1 = bf16[1,4,8]{2,1,0} bitcast(%param_1.3)
  ROOT %dus = bf16[6,4,8]{2,1,0} dynamic-update-slice(%param_0.3, %bitcast.1, %param_2.3)
}

%body (arg.1: (s32[], bf16[4,16], bf16[6,16,8], bf16[6,4,8])) -> (s32[], bf16[4,16], bf16[6,16,8], bf16[6,4,8]) {
  %arg.1 = (s32[], bf16[4,16]{1,0}, bf16[6,16,8]{2,1,0}, /*index=3*/bf16[6,4,8]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  %x = bf16[4,16]{1,0} get-tuple-element(%arg.1), index=1
  %w = bf16[6,16,8]{2,1,0} get-tuple-element(%arg.1), index=2
  %kept = bf16[6,4,8]{2,1,0} get-tuple-element(%arg.1), index=3
  %slice.1 = bf16[1,16,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%slice
  %bitcast.2 = bf16[16,8]{1,0} bitcast(%slice.1)
  %y = bf16[4,8]{1,0} fusion(%x, %bitcast.2), kind=kCustom, calls=%gemm, metadata={op_name="jit(f)/dot"}
  %kept.1 = bf16[6,4,8]{2,1,0} fusion(%kept, %y, %i), kind=kLoop, calls=%keep
  ROOT %tuple.1 = (s32[], bf16[4,16]{1,0}, bf16[6,16,8]{2,1,0}, bf16[6,4,8]{2,1,0}) tuple(%i, %x, %w, %kept.1)
}

ENTRY %main (p.0: bf16[4,16], p.1: bf16[6,16,8], p.2: bf16[6,4,8]) -> bf16[6,4,8] {
  %p.0 = bf16[4,16]{1,0} parameter(0)
  %p.1 = bf16[6,16,8]{2,1,0} parameter(1)
  %p.2 = bf16[6,4,8]{2,1,0} parameter(2)
  %zero = s32[] constant(0)
  %t = (s32[], bf16[4,16]{1,0}, bf16[6,16,8]{2,1,0}, bf16[6,4,8]{2,1,0}) tuple(%zero, %p.0, %p.1, %p.2)
  %loop = (s32[], bf16[4,16]{1,0}, bf16[6,16,8]{2,1,0}, bf16[6,4,8]{2,1,0}) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"6"}}
  ROOT %out = bf16[6,4,8]{2,1,0} get-tuple-element(%loop), index=3
}
"""


def test_kernels_of_a_loop_are_counted_with_what_they_move_and_multiply():
    cut, product, keep = hlo.kernels(PROGRAM)
    assert {kernel.times for kernel in (cut, product, keep)} == {6}
    # A slice reads what it gives (and its number), an update in place writes what it changes.
    assert cut.bytes == 2 * (2 * 16 * 8) + 4
    assert keep.bytes == 2 * (2 * 4 * 8) + 4
    assert product.bytes == 2 * (4 * 16 + 16 * 8 + 4 * 8)
    assert (product.flops, cut.flops) == ({"bf16": 2.0 * 4 * 16 * 8}, {})
    assert product.operation == "jit(f)/dot"


def test_a_program_of_this_machine_is_read_too():
    program = jax.jit(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])
    text = program.lower(jnp.ones((3, 5)), jnp.ones((7, 5, 5))).compile().as_text()
    assert sum(sum(k.flops.values()) * k.times for k in hlo.kernels(text)) == 7 * 2 * 3 * 5 * 5


UNSAID = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"6"}}', "")
CONDITION = """
%c (arg.2: (u32[], bf16[4,16])) -> pred[] {
  %arg.2 = (u32[], bf16[4,16]{1,0}) parameter(0)
  %limit = u32[]{:T(128)} constant(4), metadata={op_name="jit(f)/dot"}
  %j = u32[] get-tuple-element(%arg.2), index=0
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}
"""


def test_a_loop_whose_count_is_not_said_runs_up_to_what_its_counter_is_compared_with():
    # A product split over chips is a loop of the compiler's own, its counter without a sign.
    assert {kernel.times for kernel in hlo.kernels(CONDITION + UNSAID)} == {4}
    with pytest.raises(ValueError, match="loop loop"):
        hlo.kernels(CONDITION.replace("constant(4)", "parameter(1)") + UNSAID)


EXCHANGED = """HloModule jit_f, num_partitions=8

%beside (param_0.1: f32[4], param_1.1: f32[2,2]) -> f32[32] {
  %param_0.1 = f32[4]{0} parameter(0)
  ROOT %part = f32[32]{0} all-gather(%param_0.1), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%body (arg.1: (s32[], f32[24])) -> (s32[], f32[24]) {
  %arg.1 = (s32[], f32[24]{0}) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  %x = f32[24]{0} get-tuple-element(%arg.1), index=1
  %sum = f32[24]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %all = f32[96]{0} all-gather(%sum), channel_id=2, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %own = f32[6]{0} reduce-scatter(%sum), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  %two = f32[48]{0} all-gather(%sum), channel_id=4, replica_groups=mesh['a'=8] {'a':(1)2}, dimensions={0}
  %next = f32[24]{0} collective-permute(%x), channel_id=5, source_target_pairs={{0,1},{1,0}}
  ROOT %t.1 = (s32[], f32[24]{0}) tuple(%i, %next)
}

ENTRY %main (p.0: f32[24], p.1: f32[4]) -> f32[24] {
  %p.0 = f32[24]{0} parameter(0)
  %p.1 = f32[4]{0} parameter(1)
  %zero = s32[] constant(0)
  %t = (s32[], f32[24]{0}) tuple(%zero, %p.0)
  %loop = (s32[], f32[24]{0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %first = f32[32]{0} fusion(%p.1), kind=kOutput, calls=%beside
  %second = f32[32]{0} fusion(%p.1), kind=kOutput, calls=%beside
  ROOT %out = f32[24]{0} get-tuple-element(%loop), index=1
}
"""


def test_what_is_sent_goes_by_the_chips_of_a_group_and_a_loop_multiplies_it():
    found = [(k.collective, k.times, k.sent) for k in hlo.kernels(EXCHANGED) if k.collective]
    assert found[:5] == [
        ("all-reduce", 5, 2 * 96 * 3 / 4),
        ("all-gather", 5, 96 * 3),
        ("reduce-scatter", 5, 96 * 3 / 4),
        ("all-gather", 5, 96),
        ("collective-permute", 5, 96),
    ]
    # One exchange that is spread over two fusions.
    assert found[5:] == [("all-gather", 1, 16 * 7)]
    with pytest.raises(ValueError, match="sum: among how many chips"):
        hlo.kernels(EXCHANGED.replace("replica_groups={{0,1,2,3},{4,5,6,7}}", "replica_groups={}"))


def test_what_a_forward_pass_stacks_up_is_kept_and_a_backward_pass_keeps_nothing():
    def loss(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, weights)[0].sum()

    shapes = jax.ShapeDtypeStruct((4, 16), jnp.float32), jax.ShapeDtypeStruct((6, 16, 16), jnp.float32)
    text = jax.jit(jax.grad(loss)).lower(*shapes).compile().as_text()
    # Of each layer the cosine.
    assert hlo.kept_bytes(text) == 6 * 4 * 16 * 4
    assert hlo.kept_bytes(jax.jit(loss).lower(*shapes).compile().as_text()) == 0
