"""Rows of thousands of tokens: what a step holds at once grows with their number, but for one bit map of who sees whom."""

import jax
import numpy as np
import pytest

from jaxprompt.ops import attention
from jaxprompt.scoring import forward
from tests.conftest import REVIEWS
from tests.training.test_cost import compiled, decoder, step_of  # noqa: F401 (a fixture)

TEMPLATE = "{soft:3}{text}{target}"
SMALL = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_size": 128}


def rows_of(tokenizer, tokens):
    """One row of about so many tokens."""
    words = " ".join(text for text, _ in REVIEWS)
    each = len(tokenizer.encode(words))
    return [{"text": " ".join([words] * (tokens // each)), "target": "good"}]


def temporary(backbone, tokens):
    program, batch = compiled(backbone, rows_of(backbone.tokenizer, tokens), TEMPLATE)
    return program.memory_analysis().temp_size_in_bytes, batch.inputs.ids.size


def test_a_step_of_8192_tokens_holds_what_the_policy_keeps_and_a_block_of_logits(decoder):  # noqa: F811
    backbone = decoder(**SMALL, max_positions=10_000)
    found, tokens = temporary(backbone, 8192)
    assert 7000 < tokens <= 8192
    width, mlp, layers, heads = 64, 128, 4, 4
    kept = 4 * tokens * layers * (6 * width + 2 * mlp)
    block = 4 * heads * attention.BLOCK_LOGITS
    # The logits of all layers would be twenty times as much.
    assert found < 1.3 * kept + tokens**2 + 6 * block < 0.1 * 4 * layers * heads * tokens**2


@pytest.mark.parametrize("template", [TEMPLATE, pytest.param("{text}{soft:3}{target}", marks=pytest.mark.slow)])
def test_blocks_change_neither_loss_nor_gradient(decoder, monkeypatch, template):  # noqa: F811
    backbone = decoder(**SMALL, max_positions=4096)
    rows = rows_of(backbone.tokenizer, 600)

    def gradient():
        of, arguments, *_ = step_of(backbone, rows, template)
        return jax.tree.leaves(jax.jit(of)(*arguments))

    whole = gradient()
    monkeypatch.setattr(attention, "LONG_LOGITS", 1000)
    monkeypatch.setattr(attention, "BLOCK_LOGITS", 1 << 14)
    jax.clear_caches()
    for ours, theirs in zip(gradient(), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories", "windowed"])
def test_constant_text_in_chunks_is_that_text(request, rows, monkeypatch, name):
    backbone = request.getfixturevalue(name)
    text = " ".join(row["text"] for row in rows)
    case = "A list. " + text.replace("{", "") + " {soft:2}{text}{target}"
    losses = []
    for chunk in (2048, 24):
        monkeypatch.setattr(forward, "CHUNK", chunk)
        of, arguments, shared, _ = step_of(backbone, rows, case)
        assert shared > 100
        losses.append((arguments[2]["hard_prefix"], of(*arguments)))
    for ours, theirs in zip(*map(jax.tree.leaves, losses), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)
