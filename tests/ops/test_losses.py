"""The scored head against the plain computation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprompt.ops.losses import LossShape, gather_positions, sum_by_group, token_losses

ROWS, COUNT, WIDTH, VOCAB = 2, 11, 8, 50


def token_logprobs(*args, **options):
    """With a gradient, as objectives have them."""
    return -token_losses(*args, **options)[0]


def head(params, hidden):
    return jnp.tanh(hidden) @ params.T


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(ROWS, COUNT, WIDTH)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, VOCAB, (ROWS, COUNT)))
    weight = jnp.asarray(rng.normal(size=(ROWS, COUNT)), jnp.float32)
    return params, hidden, ids, weight


# All at once; tiles that divide the targets unevenly; one target per tile.
@pytest.mark.parametrize("tile_bytes", [2**20, 4 * VOCAB * ROWS * 4, 1])
def test_tiles_equal_the_plain_log_softmax_and_its_gradient(arrays, tile_bytes):
    params, hidden, ids, weight = arrays

    def plain(hidden, params):
        logprobs = jax.nn.log_softmax(head(params, hidden))
        return (jnp.take_along_axis(logprobs, ids[..., None], -1)[..., 0] * weight).sum()

    def tiled(hidden, params):
        return (token_logprobs(head, params, hidden, ids, VOCAB, tile_bytes=tile_bytes) * weight).sum()

    # The head frozen, learned too, and learned alone.
    for what in ((0,), (0, 1), (1,)):
        ours, theirs = (jax.jit(jax.value_and_grad(f, what))(hidden, params) for f in (tiled, plain))
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=5e-6)
    # Nothing is spent on one that is frozen: logits once, and one product back.
    text = jax.jit(jax.grad(tiled)).lower(hidden, params).as_text()
    assert text.count("dot_general") == 2


@pytest.mark.parametrize("tile_bytes", [2**20, 4 * VOCAB * ROWS * 4])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.01), (0.1, 0.02)])
def test_shaped_losses_equal_those_of_smoothed_labels_and_a_squared_denominator(arrays, smoothing, z_loss, tile_bytes):
    params, hidden, ids, weight = arrays

    def plain(hidden):
        logits = head(params, hidden)
        targets = optax.smooth_labels(jax.nn.one_hot(ids, VOCAB), smoothing)
        losses = optax.softmax_cross_entropy(logits, targets) + z_loss * jax.nn.logsumexp(logits, -1) ** 2
        return (losses * weight).sum()

    def tiled(hidden):
        losses, logprobs = token_losses(head, params, hidden, ids, VOCAB, LossShape(smoothing, z_loss), tile_bytes)
        # What is reported is no part of what is learned.
        return (losses * weight).sum() + 0.0 * logprobs.sum()

    for ours, theirs in zip(jax.value_and_grad(tiled)(hidden), jax.value_and_grad(plain)(hidden), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    _, logprobs = token_losses(head, params, hidden, ids, VOCAB, LossShape(smoothing, z_loss), tile_bytes)
    np.testing.assert_allclose(logprobs, token_logprobs(head, params, hidden, ids, VOCAB), rtol=1e-6)


def test_no_buffer_of_targets_by_vocabulary(arrays):
    params, _, _, _ = arrays
    hidden, ids = jnp.zeros((1, 4096, WIDTH)), jnp.zeros((1, 4096), jnp.int32)

    def loss(hidden):
        return token_logprobs(head, params, hidden, ids, VOCAB, tile_bytes=4 * VOCAB * 64).sum()

    text = jax.jit(jax.grad(loss)).lower(hidden).as_text()
    assert f"4096x{VOCAB}x" not in text
    assert f"64x{VOCAB}x" in text


def test_gather_and_sum_stay_in_their_row():
    hidden = jnp.arange(2 * 3 * 1.0).reshape(2, 3, 1)
    assert gather_positions(hidden, jnp.array([[2, 0], [1, 1]]))[..., 0].tolist() == [[2, 0], [4, 4]]
    assert sum_by_group(jnp.array([[1.0, 2, 3]]), jnp.array([[1, 0, 1]]), 3).tolist() == [[2, 4, 0]]


def test_tiles_grow_with_the_devices_that_share_their_rows(arrays):
    params, hidden, ids = arrays[0], jnp.zeros((4, 64, WIDTH)), jnp.zeros((4, 64), jnp.int32)

    def tiles(shards):
        def losses(hidden):
            return token_losses(head, params, hidden, ids, VOCAB, tile_bytes=4 * VOCAB * 4 * 8, shards=shards)

        found = re.findall(r"length=(\d+)", str(jax.make_jaxpr(losses)(hidden)))
        return list(map(int, found))

    # Each reads the head once.
    assert (tiles(1), tiles(2), tiles(8)) == ([8], [4], [])
