"""Soft rows that enter at a later layer, against layers run one by one on one text without its slots."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.models import Memory
from jaxprompt.models.block import Block, LayerInputs
from jaxprompt.ops.views import View, visibility, windowed
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Inputs, Late
from tests.conftest import STORIES
from tests.flops import products

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ["gpt2", "bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama-untied", "gemma3"))]
SLOW = pytest.mark.slow


def inputs_of(ids, positions=None):
    ids = jnp.asarray(ids)[None]
    positions = jnp.arange(ids.shape[1])[None] if positions is None else jnp.asarray(positions)[None]
    return Inputs(ids, positions, jnp.ones_like(ids))


def soft_rows(backbone, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, backbone.config.hidden_size)).astype(np.float32)


def plainly(backbone, ids, rows, layer, side=None, memory=None):
    """Hidden states of one text: the words alone up to the layer, then with the rows among them."""
    ids = np.asarray(ids)
    slots = ids >= backbone.vocab_size
    (words,), module, params = np.nonzero(~slots), backbone.module.bind({"params": backbone.params}), backbone.params
    config, stack, causal = backbone.config, module, backbone.causal
    if side is not None:
        config, stack, params, causal = getattr(config, side), getattr(module, side), params[side], side == "decoder"

    @functools.partial(jax.jit, static_argnums=2)
    def run(x, positions, at):
        given = inputs_of(jnp.zeros(len(positions), int), positions)
        view, rotary = View(visibility(given, causal)), getattr(config, "rotary", None)
        if any(getattr(config, "local_layers", ())) and config.local_layers[at]:
            view = windowed(view, config.window, given.positions, given.positions, jnp.zeros(0, int))
            rotary = config.local_rotary or rotary
        more = {}
        if side is not None:
            relative, at_positions = backbone.config.relative, (given.positions, given.positions)
            view = view.replace(row_bias=relative.bias(params["relative_bias"], *at_positions, not causal))
        if memory is not None:
            seen = jnp.ones((1, len(positions), memory.keys.shape[2]), bool)
            more = {"memory": (memory.keys[at], memory.values[at]), "memory_view": View(seen)}
        angles = None if rotary is None else rotary.angles(given.positions)
        weights = jax.tree.map(lambda leaf: leaf[at], params["layers"])
        given = LayerInputs(view, angles, layer=at, **more)
        return Block(config, backbone.module.dtype, "xla").apply({"params": weights}, x, given)[0]

    given = inputs_of(ids[words], words)
    x = module._enter(given, None) if side is None else stack.enter(module.embed(given.ids), given)
    for at in range(layer):
        x = run(x, words, at)
    x = jnp.zeros((1, len(ids), config.hidden_size)).at[:, words].set(x)
    x = x.at[:, slots].set(rows[ids[slots] - backbone.vocab_size])
    for at in range(layer, config.num_layers):
        x = run(x, np.arange(len(ids)), at)
    if side is not None:
        x = stack.final_norm(x)
    return np.asarray(module._finish(x) if backbone.causal else x)[0]


def packed(*texts, padding=2):
    """One row, a segment for each text, and padding."""
    rows = [np.concatenate(part) for part in zip(*((ids, range(len(ids)), [at] * len(ids)) for at, ids in enumerate(texts, 1)), strict=True)]  # fmt: skip
    return Inputs(*(jnp.asarray(np.pad(row, (0, padding)))[None] for row in rows))


def jitted(backbone, method="encode"):
    run = jax.jit(
        lambda params, *args, **named: backbone.module.apply({"params": params}, *args, method=method, **named)
    )
    return functools.partial(run, backbone.params)


@pytest.mark.parametrize(("layer", "unroll"), [(2, False), pytest.param(1, False, marks=SLOW), pytest.param(2, True, marks=SLOW)])  # fmt: skip
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_below_the_layer_sees_the_slots(name, layer, unroll):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    rows, first = soft_rows(backbone, 3), backbone.vocab_size
    texts = [[7, first, first + 1, 9, 30, first + 2, 22], [first, first + 2, 5, 50, 41]]
    wanted = [plainly(backbone, ids, rows, layer) for ids in texts]
    apart = jaxprompt.load_backbone(GOLDEN / name, unroll=True) if unroll else backbone
    found = jitted(apart)(packed(*texts), Late(jnp.asarray(rows), layer))[0]
    np.testing.assert_allclose(found[:7], wanted[0], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found[7:12], wanted[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["t5", pytest.param("t5-v1_1", marks=SLOW)])
def test_either_side_of_an_encoder_decoder_has_slots_of_its_own(name):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    rows, first, layer = soft_rows(backbone, 4), backbone.vocab_size, backbone.num_layers - 1
    texts, answers = [[first, 7, first + 1, 9, 30], [5, first, 50]], [[0, first + 2, 8], [0, 4, first + 3, 12]]
    late, source = Late(jnp.asarray(rows), layer), packed(*texts)
    found = jitted(backbone, "source_hidden")(source, late)[0]
    wanted = [plainly(backbone, ids, rows, layer, "encoder") for ids in texts]
    np.testing.assert_allclose(found[:8], np.concatenate(wanted), rtol=1e-4, atol=5e-5)
    memory = jitted(backbone, "read")(source, late)
    found = jitted(backbone)(packed(*answers), late, memory=memory)[0]
    starts, wanted = (0, 5, 8), []
    for number, ids in enumerate(answers):
        own = jax.tree.map(
            lambda part, at=number: part[:, :, starts[at] : starts[at + 1]], (memory.keys, memory.values)
        )
        wanted.append(plainly(backbone, ids, rows, layer, "decoder", Memory(*own, memory.segments)))
    np.testing.assert_allclose(found[:7], np.concatenate(wanted), rtol=1e-4, atol=5e-5)
    # Piece by piece, the slot in the first.
    cache, pieces, decode = backbone.empty_cache(1, 4), [], jitted(backbone, "decode")
    own = Memory(memory.keys[:, :, 5:8], memory.values[:, :, 5:8], jnp.ones((1, 3), int))
    for start, stop in ((0, 3), (3, 4)):
        hidden, cache = decode(inputs_of(answers[1][start:stop], range(start, stop)), cache, late, memory=own)
        pieces.append(hidden[0])
    np.testing.assert_allclose(jnp.concatenate(pieces), wanted[1], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["gpt2", pytest.param("gemma3", marks=SLOW)])
def test_a_shared_prompt_and_a_cache_hide_the_slots_too(name):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    rows, first = soft_rows(backbone, 4), backbone.vocab_size
    prompt, own = np.array([9, first, first + 1, 4]), [22, first + 2, 8, first + 3, 31]
    wanted = plainly(backbone, [*prompt, *own], rows, 2)[len(prompt) :]
    late, inputs = Late(jnp.asarray(rows), 2), inputs_of(own, range(4, 9))
    # Laid end to end with the rows; ahead of them, in two parts; and, with a cache, piece by piece.
    joined = jitted(backbone)(inputs, late, prompt=prompt)
    prefill = jitted(backbone, "prefill")
    prefix = prefill(prompt[2:], late, prefill(prompt[:2], late))
    behind = jitted(backbone)(inputs, late, prefix)
    cache, pieces, decode = backbone.empty_cache(1, 8), [], jitted(backbone, "decode")
    for start, stop in ((0, 3), (3, 5)):
        piece = inputs_of(own[start:stop], range(4 + start, 4 + stop))
        hidden, cache = decode(piece, cache, late, prefix)
        pieces.append(hidden)
    for found in (joined, behind, jnp.concatenate(pieces, axis=1)):
        np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("unroll", [False, pytest.param(True, marks=SLOW)])
def test_the_layers_below_get_no_backward_pass_and_keep_nothing_for_one(unroll):
    backbone = jaxprompt.load_backbone(STORIES, unroll=unroll)
    rows, first = jnp.asarray(soft_rows(backbone, 2)), backbone.vocab_size
    inputs, spent, kept = inputs_of([first, first + 1, 7, 9, 30, 22, 5]), {}, {}

    def loss(rows, params, layer):
        soft = rows if layer is None else Late(rows, layer)
        return (backbone.apply(params, inputs, soft=soft) ** 2).sum()

    forward = sum(
        part.flops for part in products(lambda *args: loss(*args, 4), rows, backbone.params) if not part.batched
    )
    for layer in (None, 1, 2, 4):
        run = jax.grad(lambda *args, layer=layer: loss(*args, layer))
        spent[layer] = sum(part.flops for part in products(run, rows, backbone.params) if not part.batched)
        pullback = jax.eval_shape(
            lambda rows, layer=layer: jax.vjp(lambda rows: loss(rows, backbone.params, layer), rows)[1], rows
        )
        kept[layer] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
    for layer in (1, 2, 4):
        # Of five layers.
        assert spent[layer] == pytest.approx(forward * (1 + (5 - layer) / 5), rel=0.01)
    assert spent[None] == pytest.approx(2 * forward, rel=0.01)
    each = (kept[None] - kept[1], (kept[1] - kept[2]), (kept[2] - kept[4]) / 2)
    assert min(each) > 0 and max(each) == pytest.approx(min(each), rel=0.1)


@pytest.mark.slow
def test_texts_are_written_and_rows_of_texts_are_read_alike(stories):
    apart = jaxprompt.load_backbone(STORIES, unroll=True)
    rows, text = 10 * soft_rows(stories, 3), "The dog"
    prompt = Prompt(Conditioning(soft=rows, soft_layer=2))
    (written,) = jaxprompt.generate(stories, [text], prompt, max_new_tokens=8)
    assert jaxprompt.generate(apart, [text], prompt, max_new_tokens=8, num_beams=1) == [written]
    early = jaxprompt.generate(stories, [text], Prompt(Conditioning(soft=rows)), max_new_tokens=8)
    assert written not in (early[0], jaxprompt.generate(stories, [text], max_new_tokens=8)[0])
    ids = stories.tokenizer(text + written)["input_ids"]
    start = len(stories.tokenizer(text)["input_ids"])
    padded = stories.logits([[0, 0, *ids]], [[0, 0, *[1] * len(ids)]], prompt=prompt)[0, 2:]
    np.testing.assert_array_equal(np.argmax(padded, axis=-1)[start - 1 : -1], ids[start:])
    plain = plainly(stories, [512, 513, 514, *ids], rows, 2)[3:]
    np.testing.assert_allclose(stories.hidden([ids], prompt=prompt)[0], plain, rtol=1e-4, atol=2e-5)


def test_what_a_model_has_no_place_for_is_refused(stories, tmp_path):
    opt = jaxprompt.load_backbone(GOLDEN / "opt-350m")
    for backbone, layer, says in (
        (stories, 5, "soft rows enter ahead of layer 5, .* has 5 layers from 0 on: lower method.layer"),
        (opt, 1, f"hidden states of .* are {opt.config.hidden_size} wide and not {opt.soft_size} as words are"),
    ):
        prompt = Prompt(Conditioning(soft=np.ones((2, backbone.soft_size), np.float32), soft_layer=layer))
        for use in (prompt.check, lambda backbone, prompt=prompt: backbone.logits([[3, 4]], prompt=prompt)):
            with pytest.raises(InputError, match=says):
                use(backbone)
    with pytest.raises(InputError, match=r"which an array cannot say: save it as \.safetensors, not p\.npy"):
        jaxprompt.save_prompt(prompt, tmp_path / "p.npy")
    again = jaxprompt.load_prompt(jaxprompt.save_prompt(prompt, tmp_path / "p.safetensors"))
    assert again.soft_layer == 1
