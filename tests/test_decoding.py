"""Greedy and beam search against transformers' `generate` (tests/golden_reference), token for token."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from jaxprompt.backbone import load_backbone
from jaxprompt.decoding import Search, decode
from jaxprompt.types import Inputs

GOLDEN = Path(__file__).parent / "golden"
MODELS = ["gpt2", "llama-untied", "gemma2", "t5-v1_1", "bart"]


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
    ended = np.cumsum(tokens == settings["eos_token_id"], axis=1) - (tokens == settings["eos_token_id"])
    return np.where(ended > 0, 0, tokens), np.asarray(scores)


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
@pytest.mark.parametrize("penalty", [1, 2])
def test_beam_search(reference, padding, penalty):
    backbone, settings, arrays = reference
    options = {"num_beams": settings["num_beams"], "length_penalty": float(penalty)}
    ids, mask = arrays[f"{padding}ids"], arrays[f"{padding}mask"]
    found, scores = run(backbone, settings, ids, mask, **options)
    right(found, arrays[f"{padding}beam_ids_{penalty}"])
    np.testing.assert_allclose(scores, arrays[f"{padding}beam_scores_{penalty}"], atol=1e-4, rtol=1e-4)


def test_one_beam_scores_the_greedy_choice(reference):
    """A beam search as wide as 1 would be greedy: its score is the log-probability that greedy decoding reports."""
    backbone, settings, arrays = reference
    _, scores = run(backbone, settings, arrays["ids"], arrays["mask"])
    _, beams = run(backbone, settings, arrays["ids"], arrays["mask"], num_beams=3, length_penalty=0.0)
    assert (scores <= 0).all()
    assert np.isfinite(beams).all()
