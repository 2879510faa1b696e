"""The kernels by JAX's interpreter, against XLA's attention; what a TPU's compiler makes of them: tests/tpu."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.ops import attention, flash
from jaxprompt.ops.attention import AttentionOptions, attend
from jaxprompt.ops.views import View, windowed
from tests.devices import run_on_eight_devices

ROWS, SEQ, HEADS, KV_HEADS, DIM, PREFIX = 2, 7, 6, 2, 4, 5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "PALLAS_QUERIES", 2)


def arrays(prefix, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(ROWS, SEQ, HEADS, DIM), *[(ROWS, SEQ, KV_HEADS, DIM)] * 2, *[(prefix, KV_HEADS, DIM)] * 2]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def view_of(kind, prefix):
    seen = jnp.broadcast_to(jnp.tri(SEQ, dtype=bool), (ROWS, SEQ, SEQ)).at[1, 4, :4].set(False)
    view = View(seen[:1] if kind == "one for all" else seen, causal=True)
    if kind == "window":
        positions = jnp.broadcast_to(prefix + jnp.arange(SEQ), (ROWS, SEQ))
        view = windowed(view, 3, positions, positions, jnp.arange(prefix))
    if kind.startswith("bias"):
        rows = ROWS if kind == "bias of rows" else 1
        bias = jnp.asarray(np.random.default_rng(1).normal(size=(rows, HEADS, SEQ, prefix + SEQ)), jnp.float32)
        view = view.replace(row_bias=bias[..., prefix:])
        if kind == "bias":  # the prefix of an encoder has none
            view = view.replace(prefix_bias=bias[..., :prefix])
    return view


def loss_and_gradients(arrays, view, options, prefix):
    def loss(q, k, v, *shared):
        return (attend(q, k, v, view, options, shared if prefix else None).astype(jnp.float32) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=range(5)))(*arrays)


@pytest.mark.parametrize("blocks", ["one", "several"])
@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("plain", PREFIX),
        ("plain", 0),
        ("one for all", PREFIX),
        ("window", PREFIX),
        ("bias", PREFIX),
        ("bias of rows", 3),
    ],
)
def test_equals_xla_with_gradients(kind, prefix, blocks, monkeypatch):
    if blocks == "several":  # the last of them padded
        monkeypatch.setattr(flash, "WHOLE", 4)
        monkeypatch.setattr(flash, "CHUNK", 4)
        monkeypatch.setattr(flash, "block_size", lambda seq, keys: 3)
    given, view, softcap = arrays(prefix), view_of(kind, prefix), 1.5 if kind == "plain" else None
    got, want = (
        loss_and_gradients(given, view, AttentionOptions(0.4, softcap, name), prefix) for name in ("pallas", "xla")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_narrow_types_are_multiplied_as_they_are():
    given, view = arrays(PREFIX, jnp.bfloat16), view_of("plain", PREFIX)
    got, want = (
        loss_and_gradients(given, view, AttentionOptions(0.4, None, name), PREFIX) for name in ("pallas", "xla")
    )
    assert {x.dtype for x in got[1]} == {jnp.bfloat16.dtype}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.03, atol=0.03), got, want)


def test_a_scale_that_the_program_computes(monkeypatch):
    given, view = arrays(0), view_of("plain", 0)

    def out(scale, name):
        return attend(*given[:3], view, AttentionOptions(scale, implementation=name))

    got = jax.jit(lambda layer: out(0.4 / (layer + 1), "pallas"))(3)
    np.testing.assert_allclose(got, out(0.1, "xla"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("seq", "keys", "block"), [(848, 848, 848), (1280, 1280, 640), (5000, 1280, 640), (30, 50, 30)]
)
def test_blocks_pad_little(seq, keys, block):
    assert flash.block_size(seq, keys) == block and block * keys <= flash.LOGITS


EIGHT_DEVICES = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.ops import attention
from jaxprompt.ops.attention import AttentionOptions, attend
from jaxprompt.ops.views import View

attention.PALLAS_QUERIES = 2
mesh, rng = make_mesh(2, 2, 2), np.random.default_rng(0)
far = 0.0
for rows, kv_heads in ((8, 2), (3, 2), (4, 1)):  # split by rows and heads; by heads alone; by rows alone
    shapes = [(rows, 7, 6, 4), *[(rows, 7, kv_heads, 4)] * 2, *[(5, kv_heads, 4)] * 2]
    given = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    bias = jnp.asarray(rng.normal(size=(1, 6, 7, 12)), jnp.float32)
    seen = jnp.broadcast_to(jnp.tri(7, dtype=bool), (rows, 7, 7)).at[1, 4, :4].set(False)
    view = View(seen, row_bias=bias[..., 5:], prefix_bias=bias[..., :5], causal=True)

    def loss(options, q, k, v, *shared):
        return (attend(q, k, v, view, options, shared) ** 2).sum()

    def found(name, mesh):
        step = jax.value_and_grad(lambda *given: loss(AttentionOptions(0.4, None, name, mesh), *given), argnums=range(5))
        return jax.jit(step)(*given)

    for a, b in zip(*map(jax.tree.leaves, (found("pallas", mesh), found("xla", None)))):
        far = max(far, float(np.abs(a - b).max() / np.abs(b).max()))
print(json.dumps(far))
"""


@pytest.mark.slow
def test_split_over_eight_devices():
    assert float(run_on_eight_devices(EIGHT_DEVICES).splitlines()[-1]) < 1e-5
