"""Rows behind a gate: nothing at first, then their own attention added, in the last layers alone."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.methods import Start
from jaxprompt.methods.gated_prefix import GatedPrefix, GatedPrefixOptions
from jaxprompt.models.adapted import adapted
from jaxprompt.ops.attention import AttentionOptions, attend_gated
from jaxprompt.prompts import Prompt
from jaxprompt.types import Inputs
from tests.conftest import STORIES
from tests.flops import products
from tests.methods.test_contract import config

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = np.array([[1, 7, 9, 30, 22, 5], [3, 50, 41, 8, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def conditioning(backbone, gate=None, **options):
    method = GatedPrefix.build(GatedPrefixOptions(**options), 0, backbone)
    learned = method.init(jax.random.key(0), Start(backbone))
    if gate is not None:
        learned = jax.tree.map(lambda x: x if x.any() else jnp.full_like(x, gate), learned)
    return jax.tree.map(np.asarray, method.apply(learned))


def hidden(backbone, conditioning=None):
    more = {"decoder_input_ids": IDS} if backbone.seq2seq else {}
    return np.asarray(backbone.hidden(IDS, MASK, prompt=conditioning and Prompt(conditioning), **more))


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_it_is_a_softmax_of_its_own_times_a_gate_per_head(softcap):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 6, 4), (3, 2, 4), (3, 2, 4)))
    gate = rng.normal(size=6).astype(np.float32)
    found = attend_gated(q, (k, v), gate, AttentionOptions(0.7, softcap))
    for row in range(2):
        for head in range(6):
            logits = 0.7 * q[row, :, head] @ k[:, head // 3].T
            logits = logits if softcap is None else softcap * np.tanh(logits / softcap)
            weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            np.testing.assert_allclose(
                found[row, :, head], gate[head] * weights @ v[:, head // 3], rtol=1e-4, atol=1e-5
            )


FAMILIES = ["gpt2", "t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "gemma3", "gpt-neox"))]


@pytest.mark.parametrize("name", FAMILIES)
def test_gates_of_zero_leave_the_model_as_it_was(name):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    bare = hidden(backbone)
    np.testing.assert_array_equal(hidden(backbone, conditioning(backbone)), bare)
    assert np.abs(hidden(backbone, conditioning(backbone, 0.5, layers=1)) - bare).max() > 1e-3


def test_either_side_of_an_encoder_decoder_has_its_own():
    backbone = jaxprompt.load_backbone(GOLDEN / "t5")
    found = conditioning(backbone, 0.5)
    assert set(found.gated) == {"encoder/layers/attention", "decoder/layers/attention"}
    whole, bare = hidden(backbone, found), hidden(backbone)
    for path, part in found.gated.items():
        one = hidden(backbone, dataclasses.replace(found, gated={path: part}))
        assert np.abs(one - whole).max() > 1e-3 and np.abs(one - bare).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_single_row_adds_its_gated_value_whatever_asks(name):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    found = conditioning(backbone, 0.4, length=1, layers=2)
    # The softmax over one key is 1: what is added is the same for all tokens, a change of the output projection's bias.
    part = found.gated["layers/attention"]
    layer = jax.tree.map(np.asarray, backbone.params["layers"]["attention"])
    heads, dim = backbone.config.num_heads, backbone.head_dim
    bias = layer["out"]["bias"].copy()
    for at in range(2):
        of = backbone.num_layers - 2 + at
        value = (layer["v"]["weight"][of] @ part.rows[at, 0] + layer["v"]["bias"][of]).reshape(heads, dim)
        bias[of] += layer["out"]["weight"][of] @ (value * part.gate[at][:, None]).reshape(-1)
    params = {
        **backbone.params,
        "layers": {**backbone.params["layers"], "attention": {**layer, "out": {**layer["out"]}}},
    }
    params["layers"]["attention"]["out"]["bias"] = bias
    np.testing.assert_allclose(
        hidden(backbone, found), hidden(dataclasses.replace(backbone, params=params)), rtol=1e-4, atol=1e-4
    )


def test_texts_are_written_as_the_whole_sequence_says(stories):
    apart = jaxprompt.load_backbone(STORIES, unroll=True)
    found = conditioning(stories, -3.0, layers=3)
    (path, part), text = *found.gated.items(), "Once upon a time"
    prompt = Prompt(dataclasses.replace(found, gated={path: part.replace(rows=10 * part.rows)}))
    (written,) = jaxprompt.generate(stories, [text], prompt, max_new_tokens=8)
    assert jaxprompt.generate(apart, [text], prompt, max_new_tokens=8) == [written]
    assert jaxprompt.generate(stories, [text], max_new_tokens=8) != [written]
    ids = np.asarray(stories.tokenizer(text + written)["input_ids"])[None]
    start = len(stories.tokenizer(text)["input_ids"])
    best = np.argmax(stories.logits(ids, prompt=prompt), axis=-1)
    np.testing.assert_array_equal(best[0, start - 1 : -1], ids[0, start:])


@pytest.mark.parametrize("unroll", [False, True])
def test_the_layers_below_get_no_backward_pass(unroll):
    backbone = jaxprompt.load_backbone(STORIES, unroll=unroll)
    ids = jnp.asarray([[1, 7, 9, 30, 22, 5]])
    inputs = Inputs(ids, jnp.arange(6)[None], jnp.ones_like(ids))
    spent = {}
    for layers in (0, 1, 2, 5):
        found = conditioning(backbone, 0.1, layers=layers or 1)

        def loss(found, params):
            return (backbone.apply(adapted(params, found), inputs) ** 2).sum()

        computed = products(jax.grad(loss) if layers else loss, found, backbone.params)
        # With weights, those of the ten rows apart.
        spent[layers] = sum(part.flops for part in computed if not part.batched and 10 not in sum(part.shapes, ()))
    for layers in (1, 2, 5):
        assert spent[layers] == pytest.approx(spent[0] * (1 + layers / 5), rel=0.04)


def test_what_makes_no_sense_is_refused_by_name(stories, minilm, rows):
    tree = config("gated_prefix", rows)
    with pytest.raises(InputError, match=r"^method\.layers 6 is more than the 5 layers of "):
        build(load_config(tree, ["method.layers=6"]), stories)
    prompt = Prompt(conditioning(stories))
    for use in (prompt.check, lambda backbone: backbone.hidden(IDS, prompt=prompt)):
        with pytest.raises(
            InputError, match="has 6 layers of width 384 and 12 heads: use the backbone it was learned for"
        ):
            use(minilm)
