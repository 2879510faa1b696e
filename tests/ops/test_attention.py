import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxprompt.errors import InputError
from jaxprompt.ops import attention
from jaxprompt.ops.attention import AttentionOptions, attend, choose_implementation
from jaxprompt.ops.views import View, visibility, windowed
from jaxprompt.types import Inputs

ROWS, SEQ, HEADS, KV_HEADS, DIM, PREFIX = 3, 5, 6, 2, 4, 7


def reference(q, k, v, view, prefix_keys, prefix_values, scale, softcap=None):
    """Repeats kv heads and copies the prefix to every row: what `attend` must equal and never do."""
    rows, seq = q.shape[:2]
    prefix = prefix_keys.shape[0]
    k = jnp.concatenate([jnp.broadcast_to(prefix_keys, (rows, *prefix_keys.shape)), k], axis=1)
    v = jnp.concatenate([jnp.broadcast_to(prefix_values, (rows, *prefix_values.shape)), v], axis=1)
    ahead = jnp.ones((rows, seq, prefix), bool) if view.prefix is None else view.prefix
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    logits = jnp.einsum("rshd,rthd->rhst", q, k) * scale
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    if view.row_bias is not None:
        logits += jnp.concatenate([view.prefix_bias, jnp.broadcast_to(view.row_bias, (1, *logits.shape[1:3], seq))], 3)
    seen = jnp.concatenate([ahead, view.row], axis=2)
    weights = jax.nn.softmax(jnp.where(seen[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("rhst,rthd->rshd", weights, v)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(ROWS, SEQ, HEADS, DIM), *[(ROWS, SEQ, KV_HEADS, DIM)] * 2, *[(PREFIX, KV_HEADS, DIM)] * 2]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("prefix", [PREFIX, 0])
@pytest.mark.parametrize("kind", ["plain", "softcap", "window", "bias"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("device", ["cpu", "gpu", "long"])
def test_equals_concatenation_with_gradients(arrays, prefix, kind, causal, device, monkeypatch):
    if device == "long":  # a block of one query where there is a prefix, else of 2 or 3
        device = "cpu"
        monkeypatch.setattr(attention, "LONG_LOGITS", 8)
        monkeypatch.setattr(attention, "BLOCK_LOGITS", 16)
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    for name in ("QUERY_BLOCK", "ACCELERATOR_QUERY_BLOCK"):
        monkeypatch.setattr(attention, name, 2)  # blocks of 2, 2 and 1, where the view is said to be causal
    seen = jnp.broadcast_to(jnp.tri(SEQ, dtype=bool), (ROWS, SEQ, SEQ)).at[1, 4, :4].set(False)
    view = View(seen, causal=causal)
    softcap = 1.5 if kind == "softcap" else None
    if kind == "window":
        positions = jnp.broadcast_to(prefix + jnp.arange(SEQ), (ROWS, SEQ))
        view = windowed(view, 3, positions, positions, jnp.arange(prefix))
    if kind == "bias":
        bias = jnp.asarray(np.random.default_rng(1).normal(size=(1, HEADS, SEQ, prefix + SEQ)), jnp.float32)
        view = view.replace(row_bias=bias[..., prefix:], prefix_bias=bias[..., :prefix])

    def ours(q, k, v, pk, pv):
        shared = (pk, pv) if prefix else None
        return (attend(q, k, v, view, AttentionOptions(0.4, softcap), shared) ** 2).sum()

    def theirs(q, k, v, pk, pv):
        return (reference(q, k, v, view, pk[:prefix], pv[:prefix], 0.4, softcap) ** 2).sum()

    got = jax.jit(jax.value_and_grad(ours, argnums=range(5)))(*arrays)
    want = jax.jit(jax.value_and_grad(theirs, argnums=range(5)))(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


@pytest.fixture
def kernels(monkeypatch):
    """Stands XLA in for cuDNN, which needs a GPU, in the one call; gives the keyword arguments of its calls."""
    fused, calls = jax.nn.dot_product_attention, []

    def stand_in(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        calls.append(kwargs)
        return fused(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return calls


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX - 1, 0])
@pytest.mark.parametrize("kind", ["plain", "window", "bias", "bias of rows"])
def test_cudnn_is_given_the_same_attention(arrays, kernels, prefix, kind):
    seq = SEQ + 1
    q, k, v, pk, pv = (jnp.concatenate([x, x[:, :1] + 1], axis=1) if x.ndim == 4 else x[:prefix] for x in arrays)
    view = View(jnp.broadcast_to(jnp.tri(seq, dtype=bool), (ROWS, seq, seq)).at[1, 4, :4].set(False), causal=True)
    if kind == "window":
        positions = jnp.broadcast_to(prefix + jnp.arange(seq), (ROWS, seq))
        view = windowed(view, 3, positions, positions, jnp.arange(prefix))
    if kind.startswith("bias"):
        rows = ROWS if kind == "bias of rows" else 1
        bias = jnp.asarray(np.random.default_rng(1).normal(size=(rows, HEADS, seq, prefix + seq)), jnp.float32)
        view = view.replace(row_bias=bias[..., prefix:])
        if kind == "bias":  # the prefix of an encoder has none
            view = view.replace(prefix_bias=bias[..., :prefix])

    def run(implementation):
        def loss(q, k, v, pk, pv):
            shared = (pk, pv) if prefix else None
            return (attend(q, k, v, view, AttentionOptions(0.4, implementation=implementation), shared) ** 2).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=range(5)))(q, k, v, pk, pv)

    got, want = run("cudnn"), run("xla")
    assert kernels == [{"scale": 0.4}]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def test_cudnn_is_not_asked_for_an_odd_number_of_queries(arrays, kernels):
    q, k, v, *_ = arrays
    view = View(jnp.ones((ROWS, SEQ, SEQ), bool))
    got, want = (attend(q, k, v, view, AttentionOptions(1.0, implementation=name)) for name in ("cudnn", "xla"))
    assert not kernels
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("device", "changes", "says"),
    [
        ("cpu", {}, "needs an NVIDIA GPU, this process runs on cpu"),
        ("gpu", {"dtype": jnp.float32}, "has no float32 .dtype=bfloat16 it has.: set attention=auto"),
        ("gpu", {"softcap": 50.0}, "cannot cap attention logits, this model does at 50.0"),
        ("gpu", {"head_dim": 20}, "this model's have 20"),
        ("gpu", {"head_dim": 256}, "this model's have 256"),
        ("gpu", {"kv_heads": 4, "shards": 8}, "cannot split 4 heads of keys over 8 devices"),
        ("gpu", {"name": "cuddn"}, "did you mean 'cudnn'"),
        ("gpu", {"name": "pallas"}, "attention=pallas needs a TPU, this process runs on gpu"),
    ],
)
def test_attention_where_it_cannot_be_is_refused(monkeypatch, device, changes, says):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    right = {"name": "cudnn", "dtype": jnp.bfloat16, "head_dim": 64, "softcap": None}
    if device == "gpu":
        assert choose_implementation(**right) == ("cudnn", "")
    with pytest.raises(InputError, match=says):
        choose_implementation(**right | changes)


@pytest.mark.parametrize(
    ("device", "changes", "chosen", "reason"),
    [
        ("cpu", {}, "xla", ""),
        ("gpu", {}, "cudnn", ""),
        ("tpu", {"dtype": jnp.float32, "softcap": 50.0, "head_dim": 20}, "pallas", ""),
        ("tpu", {"kv_heads": 4, "shards": 8}, "xla", "pallas cannot split 4 heads"),
        (
            "gpu",
            {"head_dim": 256},
            "xla",
            "cudnn needs heads of a multiple of 8 and at most 128, this model's have 256",
        ),
    ],
)
def test_auto_is_what_is_made_for_the_machine_where_it_can(monkeypatch, device, changes, chosen, reason):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    given = {"dtype": jnp.bfloat16, "head_dim": 64, "softcap": None} | changes
    name, why = choose_implementation("auto", **given)
    assert name == chosen and why.startswith(reason) and bool(why) == bool(reason)


def test_what_no_token_of_a_causal_row_sees_is_not_computed():
    seq = 4 * attention.QUERY_BLOCK
    q = jax.ShapeDtypeStruct((1, seq, 2, 16), jnp.float32)
    seen = jax.ShapeDtypeStruct((1, seq, seq), bool)

    def flops(causal):
        run = jax.jit(lambda q, k, v, row: attend(q, k, v, View(row, causal=causal), AttentionOptions(1.0)))
        return run.lower(q, q, q, seen).compile().cost_analysis()["flops"]

    # With n blocks, (n + 1) / 2n of the square is left.
    assert flops(True) < 0.65 * flops(False)


def test_large_logits_do_not_overflow(arrays):
    q, k, v, pk, pv = arrays
    mask = jnp.ones((ROWS, SEQ, SEQ), bool)
    out = attend(q, k, v, View(mask), AttentionOptions(100.0), (pk, pv))
    np.testing.assert_allclose(out, reference(q, k, v, View(mask), pk, pv, 100.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("device", "queries", "products"), [("cpu", SEQ, 4), ("gpu", SEQ, 2), ("gpu", 1, 4)])
def test_an_accelerator_multiplies_with_prefix_and_row_at_once(arrays, monkeypatch, device, queries, products):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    q, k, v, pk, pv = arrays
    view = View(jnp.ones((ROWS, queries, SEQ), bool))
    run = jax.make_jaxpr(lambda q: attend(q, k, v, view, AttentionOptions(1.0), (pk, pv)))
    assert str(run(q[:, :queries])).count("dot_general[") == products


def test_prefix_is_not_copied_to_rows(arrays):
    q, k, v, pk, pv = arrays
    mask = jnp.ones((ROWS, SEQ, SEQ), bool)

    def grads(q, k, v, pk, pv):
        return jax.grad(lambda *a: attend(*a[:3], View(mask), AttentionOptions(1.0), a[3:]).sum(), (3, 4))(
            q, k, v, pk, pv
        )

    shapes = {tuple(var.aval.shape) for eqn in jax.make_jaxpr(grads)(q, k, v, pk, pv).eqns for var in eqn.outvars}
    assert shapes
    assert not [s for s in shapes if sorted(s) == sorted((ROWS, PREFIX, KV_HEADS, DIM))]


def test_softmax_is_float32_and_output_has_the_values_type(arrays):
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays[:3])
    mask = jnp.ones((ROWS, SEQ, SEQ), bool)
    out = attend(q, k, v, View(mask), AttentionOptions(1.0))
    want = attend(*(x.astype(jnp.float32) for x in (q, k, v)), View(mask), AttentionOptions(1.0))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, rtol=0.02, atol=0.05)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.int32, (2, 5), elements=st.integers(0, 3)),
    st.none() | hnp.arrays(np.int32, (2, 5), elements=st.integers(0, 2)),
    st.booleans(),
)
def test_visibility_is_the_documented_rule(segments, branches, causal):
    seen = np.asarray(visibility(Inputs(segments, segments, segments, branches=branches), causal))
    for row, q, k in np.ndindex(2, 5, 5):
        rule = segments[row, q] == segments[row, k]
        if branches is not None:
            rule &= branches[row, k] in (0, branches[row, q])
        if causal:
            rule &= k <= q
        assert seen[row, q, k] == rule
    # Nobody is left with nothing to attend to.
    assert seen.any(-1).all()


def test_a_window_ends_so_many_positions_before_each_token():
    rows = jnp.ones((1, 4, 4), bool)
    positions = jnp.asarray([[3, 4, 0, 1]])  # two segments behind a prefix of 3
    view = windowed(View(rows), 2, positions, positions, jnp.arange(3))
    np.testing.assert_array_equal(view.prefix[0], [[0, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(view.row[0, 1], [1, 1, 0, 0])
