"""Greedy and beam search against transformers' `generate` (tests/golden_reference), token for token."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from jaxprompt.backbone import load_backbone
from jaxprompt.scoring.decode import Search, decode
from jaxprompt.types import Inputs

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ["gpt2", "gptj", "gpt-neox", "opt", "llama-untied", "phi3", "gemma2", "t5-v1_1", "bart"]


@pytest.fixture(scope="module", params=MODELS)
def reference(request):
    """(backbone, settings, arrays)."""
    folder = GOLDEN / request.param
    with safe_open(folder / "generate.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return load_backbone(folder, remat="none"), json.loads(file.metadata()["settings"]), arrays


def run(backbone, settings, ids, mask, **options):
    """New tokens, 0 behind the end, and scores."""
    search = Search(settings["max_new_tokens"], (settings["eos_token_id"],), **options)
    lengths = mask.sum(1).astype(np.int32)
    packed = np.zeros_like(ids, np.int32)
    for row, length in enumerate(lengths):
        packed[row, :length] = ids[row][mask[row] != 0]
    source = None
    if backbone.seq2seq:
        places = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
        source = Inputs(packed, places, (places < lengths[:, None]).astype(np.int32))
        packed, lengths = np.full((len(ids), 1), settings["decoder_start_token_id"], np.int32), np.ones(len(ids), int)
    tokens, scores = decode(backbone, search, jnp.asarray(packed), jnp.asarray(lengths), source=source)
    tokens = np.array(tokens)
    return np.where(behind_the_end(tokens, settings), 0, tokens), np.asarray(scores)


def behind_the_end(tokens, settings):
    ends = tokens == settings["eos_token_id"]
    return np.cumsum(ends, axis=1) - ends > 0


def right(found, expected):
    width = expected.shape[1]
    np.testing.assert_array_equal(found[:, :width], expected)
    assert not found[:, width:].any()


@pytest.mark.parametrize("padding", ["", "padded_"])
def test_greedy(reference, padding):
    backbone, settings, arrays = reference
    found, _ = run(backbone, settings, arrays[f"{padding}ids"], arrays[f"{padding}mask"])
    right(found, arrays[f"{padding}greedy"])


@pytest.mark.parametrize("padding", ["", "padded_"])
@pytest.mark.parametrize(
    ("kept", "options"),
    [
        ("beam_{}_1", {"length_penalty": 1.0}),
        ("beam_{}_2", {"length_penalty": 2.0}),
        ("early_{}", {"length_penalty": 2.0, "early_stopping": True}),
    ],
)
def test_beam_search(reference, padding, kept, options):
    backbone, settings, arrays = reference
    ids, mask = arrays[f"{padding}ids"], arrays[f"{padding}mask"]
    found, scores = run(backbone, settings, ids, mask, num_beams=settings["num_beams"], **options)
    right(found, arrays[padding + kept.format("ids")])
    np.testing.assert_allclose(scores, arrays[padding + kept.format("scores")], atol=1e-4, rtol=1e-4)


def test_a_forced_first_token_counts_as_written():
    """For the length penalty, the end of `max_new_tokens` and the place of the forced last token, as in transformers."""
    with safe_open(GOLDEN / "bart" / "generate.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        settings = json.loads(file.metadata()["settings"])
    backbone = load_backbone(GOLDEN / "bart", remat="none")
    begin, end = settings["forced_bos_token_id"], settings["eos_token_id"]
    forced = {"forced_bos": begin, "forced_eos": end}
    found, _ = run(backbone, settings, arrays["ids"], arrays["mask"], **forced)
    assert (found[:, 0] == begin).all()
    right(found, arrays["begun_greedy"])
    options = {"num_beams": settings["num_beams"], "length_penalty": 2.0, **forced}
    found, scores = run(backbone, settings, arrays["ids"], arrays["mask"], **options)
    right(found, arrays["begun_ids"])
    np.testing.assert_allclose(scores, arrays["begun_scores"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padding", ["", "padded_"])
def test_the_greedy_score_is_the_log_probability_of_the_tokens_up_to_the_end(reference, padding):
    backbone, settings, arrays = reference
    ids, mask = arrays[f"{padding}ids"], arrays[f"{padding}mask"]
    found, scores = run(backbone, settings, ids, mask)
    read = found[:, :-1]
    if backbone.seq2seq:
        start = np.full((len(ids), 1), settings["decoder_start_token_id"])
        logits = backbone.logits(ids, mask, decoder_input_ids=np.concatenate([start, read], axis=1))
    else:
        text, real = np.concatenate([ids, read], axis=1), np.concatenate([mask, np.ones_like(read)], axis=1)
        logits = backbone.logits(text, real)[:, ids.shape[1] - 1 :]
    logprobs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), found[:, :, None], axis=2)[:, :, 0]
    want = np.where(behind_the_end(found, settings), 0.0, logprobs).sum(1)
    np.testing.assert_allclose(scores, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "tokens", "scores"),
    [
        ({}, [[24, 22, 27, 27, 12, 24, 27, 2], [53, 4, 4, 4, 53, 42, 42, 2], [24, 22, 22, 22, 27, 27, 27, 2]], None),
        (
            {"num_beams": 3, "length_penalty": 2.0},
            [[24, 22, 27, 46, 27, 27, 27, 2], [24, 4, 4, 4, 53, 42, 42, 2], [24, 46, 27, 4, 27, 27, 27, 2]],
            [-0.2235, -0.2279, -0.2068],
        ),
    ],
)
def test_a_text_cut_off_at_its_length_ends_as_the_model_must(options, tokens, scores):
    """What transformers 5.24 writes with BART's forced_eos_token_id."""
    backbone = load_backbone(GOLDEN / "bart", remat="none")
    assert backbone.forced_eos_id == 2
    with safe_open(GOLDEN / "bart" / "generate.safetensors", framework="numpy") as file:
        ids, settings = file.get_tensor("ids"), json.loads(file.metadata()["settings"])
    settings["eos_token_id"] = 2
    found, found_scores = run(backbone, settings, ids, np.ones_like(ids), forced_eos=2, **options)
    np.testing.assert_array_equal(found, tokens)
    if scores is not None:
        np.testing.assert_allclose(found_scores, scores, atol=1e-4)
