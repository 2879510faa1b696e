import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.models.families import FAMILIES
from tests.devices import run_on_eight_devices
from tests.weights.folders import GOLDEN, assert_same, refused, stored, write


def test_gpt2_projections_are_split_and_transposed():
    weights, params = stored("gpt2"), load_backbone(GOLDEN / "gpt2").params
    fused = weights["transformer.h.1.attn.c_attn.weight"]
    for part, name in enumerate("qkv"):
        columns = slice(24 * part, 24 * (part + 1))
        np.testing.assert_array_equal(params["layers"]["attention"][name]["weight"][1], fused[:, columns].T)
        bias = weights["transformer.h.1.attn.c_attn.bias"][columns]
        np.testing.assert_array_equal(params["layers"]["attention"][name]["bias"][1], bias)


def test_names_without_prefix_and_buffers_of_old_releases(tmp_path):
    want = load_backbone(GOLDEN / "gpt2")
    weights = {name.removeprefix("transformer."): array for name, array in stored("gpt2").items()}
    weights["h.0.attn.bias"] = np.ones((1, 1, 32, 32), np.uint8)
    weights["h.0.attn.masked_bias"] = np.full((), -1e4, np.float32)
    weights["lm_head.weight"] = weights["wte.weight"].copy()
    got = load_backbone(write(tmp_path, "gpt2", weights))
    assert_same(got, want)
    assert got.fingerprint == want.fingerprint


def test_tensorflow_norm_names_and_ignored_heads(tmp_path):
    weights = stored("bert-pretraining")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in weights.items()
    }
    assert any("seq_relationship" in name for name in renamed)
    renamed["bert.embeddings.position_ids"] = np.arange(32)[None]
    got = load_backbone(write(tmp_path, "bert-pretraining", renamed))
    assert_same(got, load_backbone(GOLDEN / "bert-pretraining"))


def test_bfloat16_both_ways(tmp_path):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in stored("llama-untied").items()}
    folder = write(tmp_path, "llama-untied", half)
    want = load_backbone(GOLDEN / "llama-untied", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(want.params)} == {np.dtype(ml_dtypes.bfloat16)}
    assert_same(load_backbone(folder, dtype="bfloat16"), want)
    wide = load_backbone(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(wide.params["head"], half["lm_head.weight"].astype(np.float32))


def test_float16(tmp_path):
    half = load_backbone(GOLDEN / "llama-untied", dtype="float16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype(np.float16)}
    ids = np.random.default_rng(0).integers(0, 61, (4, 9))
    want = np.asarray(load_backbone(GOLDEN / "llama-untied").logits(ids))
    got = half.logits(ids)
    assert got.dtype == np.float32
    assert 0 < np.abs(np.asarray(got) - want).max() < 0.05 < want.std()
    weights = stored("llama-untied")
    weights["lm_head.weight"][3, 5] = 70000
    refused(
        write(tmp_path, "llama-untied", weights), "lm_head.weight holds values that float16 cannot", dtype="float16"
    )


def test_stored_as_float16(tmp_path):
    half = {name: array.astype(np.float16) for name, array in stored("gpt2").items()}
    got, want = load_backbone(write(tmp_path, "gpt2", half)), load_backbone(GOLDEN / "gpt2", dtype="float16")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), got.params, want.params)


EIGHT_DEVICES = """
import jax, numpy as np, sys
from jaxprompt.backbone import load_backbone
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.weights import parts

copy, parts.copy = parts.copy, lambda target, source: read.append(target.size) or copy(target, source)
mesh = make_mesh(data=2, fsdp=2, tensor=2)
for name in sys.argv[1:]:
    read = []
    backbone = load_backbone(name, mesh=mesh)
    leaves = jax.tree.leaves(backbone.params)
    # Each distinct part is read once, and no more than it; the two copies over `data` share it.
    parts_of = [{str(shard.index): shard.data.size for shard in leaf.addressable_shards} for leaf in leaves]
    assert sum(read) == sum(sum(sizes.values()) for sizes in parts_of), name
    assert any(len(sizes) == 4 for sizes in parts_of)
    one = load_backbone(name, mesh=make_mesh(devices=jax.devices()[:1]))
    jax.tree.map(np.testing.assert_array_equal, backbone.params, one.params)
print("same")
"""


def test_each_device_reads_its_own_part():
    """GPT-NeoX keeps queries, keys and values in alternating blocks, GPT-2 transposed and in one."""
    folders = [str(GOLDEN / name) for name in ("llama-untied", "gpt2", "gpt-neox")]
    assert run_on_eight_devices(EIGHT_DEVICES, *folders) == "same"


def tied(name):
    """A golden model's weights with a copy of the word embedding as a head of its own, and the head's name."""
    family = FAMILIES[json.loads((GOLDEN / name / "config.json").read_text())["model_type"]]
    config = family.translate(json.loads((GOLDEN / name / "config.json").read_text()), set())
    word = next(row.name for row in family.weights(config) if row.path == "word/weight")
    weights = stored(name)
    found = next(array for stored_name, array in weights.items() if family.canonical(stored_name) == word)
    return {**weights, family.tied_copy: found.copy()}, family.tied_copy


TIED = ["gpt2", "llama3-tied-biases", "bert-pretraining", "roberta", "distilbert", "electra-generator", "bart"]


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_that_differs_is_refused(tmp_path, name):
    weights, head = tied(name)
    assert_same(load_backbone(write(tmp_path, name, weights)), load_backbone(GOLDEN / name))
    weights[head][-1, -1] += 1e-3
    refused(write(tmp_path, name, weights), f"{head} differs from", "set tie_word_embeddings to false")
    refused(write(tmp_path, name, {**weights, head: weights[head][:-1]}), f"{head} differs from")


@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_a_copy_of_the_shared_embedding_that_differs_is_refused(tmp_path, name):
    weights = stored(name)
    word = next(stored_name for stored_name in weights if stored_name.endswith("shared.weight"))
    copy = word.replace("shared", "decoder.embed_tokens")
    weights[copy] = weights[word].copy()
    assert_same(load_backbone(write(tmp_path, name, weights)), load_backbone(GOLDEN / name))
    weights[copy][1, 1] += 1e-3
    refused(write(tmp_path, name, weights), f"{copy} differs from {word}", "store the one that was trained")


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_stands_for_the_word_embedding(tmp_path, name):
    weights, head = tied(name)
    word = next(key for key in stored(name) if np.array_equal(weights[key], weights[head]))
    del weights[word]
    assert_same(load_backbone(write(tmp_path, name, weights)), load_backbone(GOLDEN / name))


@pytest.mark.parametrize("name", ["t5", "t5-v1_1", "bart", "mbart"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_copy_stands_for_the_shared_embedding(tmp_path, name, side):
    weights = stored(name)
    word = next(key for key in weights if key.endswith("shared.weight"))
    weights[word.replace("shared", f"{side}.embed_tokens")] = weights.pop(word)
    assert_same(load_backbone(write(tmp_path, name, weights)), load_backbone(GOLDEN / name))


@pytest.mark.parametrize(("name", "head"), [("bert-pretraining", "cls.predictions"), ("roberta", "lm_head")])
def test_the_bias_of_a_tied_head_may_be_stored_twice_or_under_the_other_name(tmp_path, name, head):
    weights, want = stored(name), load_backbone(GOLDEN / name)
    bias, copy = f"{head}.bias", f"{head}.decoder.bias"
    weights[copy] = weights[bias].copy()
    assert_same(load_backbone(write(tmp_path, name, weights)), want)
    assert_same(load_backbone(write(tmp_path, name, {key: weights[key] for key in weights if key != bias})), want)
    weights[copy][3] += 1e-3
    refused(write(tmp_path, name, weights), f"{copy} differs from {bias}", "store the one that was trained")


@pytest.mark.parametrize(("name", "head"), [("bert-untied", "cls.predictions"), ("roberta-untied", "lm_head")])
def test_the_bias_of_an_untied_head_is_that_of_its_decoder(tmp_path, name, head):
    weights, want = stored(name), load_backbone(GOLDEN / name)
    np.testing.assert_array_equal(want.params["head"]["bias"], weights[f"{head}.decoder.bias"])
    older = weights.pop(f"{head}.bias")
    assert_same(load_backbone(write(tmp_path, name, weights)), want)
    del weights[f"{head}.decoder.bias"]
    refused(write(tmp_path, name, {**weights, f"{head}.bias": older}), f"missing: {head}.decoder.bias")


@pytest.mark.parametrize("name", ["t5", "t5-v1_1", "mt5"])
def test_a_head_of_t5_that_repeats_the_embedding_is_kept_once(tmp_path, name):
    weights = stored(name)
    weights["lm_head.weight"] = weights["shared.weight"].copy()
    tied = load_backbone(write(tmp_path, name, weights))
    assert (tied.config.head, "head" in tied.params) == ("tied", False)
    weights["lm_head.weight"][1, 1] += 1e-3
    own = load_backbone(write(tmp_path, name, weights))
    assert own.config.head == "own"
    np.testing.assert_array_equal(own.params["head"], weights["lm_head.weight"])


def test_two_stored_names_of_one_weight_must_agree(tmp_path):
    weights = stored("gpt2")
    weights["wte.weight"] = weights["transformer.wte.weight"].copy()
    assert_same(load_backbone(write(tmp_path, "gpt2", weights)), load_backbone(GOLDEN / "gpt2"))
    weights["wte.weight"][1, 1] += 1e-3
    refused(write(tmp_path, "gpt2", weights), "transformer.wte.weight", "wte.weight are one weight, and differ")


def test_the_head_of_gptj_has_a_bias(tmp_path):
    weights = stored("gptj")
    del weights["lm_head.bias"]
    refused(write(tmp_path, "gptj", weights), "missing: lm_head.bias")
    del weights["lm_head.weight"]
    assert not load_backbone(write(tmp_path, "gptj", weights)).has_head


def test_parameters_for_which_the_family_has_no_weights_are_refused(monkeypatch):
    phi3 = FAMILIES["phi3"]

    def biased(config, names):
        return dataclasses.replace(phi3.translate(config, names), qkv_bias=True)

    monkeypatch.setitem(FAMILIES, "phi3", dataclasses.replace(phi3, translate=biased))
    refused(GOLDEN / "phi3", "asks for layers/attention/k/bias", "for which model_type phi3 has no weights")


def test_a_head_that_is_not_tied_may_differ_and_is_used(tmp_path):
    weights, head = tied("llama3-tied-biases")
    weights[head] += 1
    config = json.loads((GOLDEN / "llama3-tied-biases" / "config.json").read_text())
    write(tmp_path, "llama3-tied-biases", weights)
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    np.testing.assert_array_equal(load_backbone(tmp_path).params["head"], weights[head])


def test_a_tied_head_of_another_type_is_compared_by_value(tmp_path):
    weights, head = tied("gpt2")
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    weights[head] = weights[head].astype(np.float32)
    load_backbone(write(tmp_path, "gpt2", weights))
    weights[head][3, 3] *= 1.001
    refused(write(tmp_path, "gpt2", weights), f"{head} differs from")


def test_weights_that_are_no_floats_are_refused(tmp_path):
    weights = stored("llama-untied")
    weights["model.norm.weight"] = np.ones(24, np.int8)
    refused(write(tmp_path, "llama-untied", weights), "wrong type: norm.weight is I8, expected F32")


def test_missing_unexpected_and_misshaped_are_reported_together(tmp_path):
    weights = stored("llama-untied")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(40, np.float32)
    weights["model.norm.weight"] = np.ones(23, np.float32)
    refused(
        write(tmp_path, "llama-untied", weights),
        "missing: layers.1.mlp.up_proj.weight",
        "unexpected: layers.0.self_attn.q_proj.bias",
        "norm.weight is [23], config.json says [24]",
    )


def test_long_lists_are_shortened(tmp_path):
    refused(write(tmp_path, "llama-untied", {"x": np.ones(1)}), "and 25 more")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "tensor", "kind", "options"),
    [
        ("llama-untied", "model.layers.1.mlp.down_proj.weight", np.float32, {}),
        ("llama-untied", "model.layers.1.mlp.down_proj.weight", np.float64, {"quantize": "int8"}),
        ("llama-untied", "lm_head.weight", ml_dtypes.bfloat16, {"dtype": "bfloat16"}),
        ("llama-untied", "model.layers.0.self_attn.q_proj.weight", np.float16, {"dtype": "float16"}),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", ml_dtypes.bfloat16, {}),
        ("gpt2", "transformer.h.1.ln_1.bias", np.float32, {"dtype": "bfloat16"}),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, name, tensor, kind, options, value):
    weights = stored(name)
    broken = weights[tensor].astype(kind)
    broken.reshape(-1)[[3, -1]] = value
    message = f"hold NaN or infinities: {tensor} (2 of {broken.size} numbers): download the files again"
    refused(write(tmp_path, name, {**weights, tensor: broken}), message, **options)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"model.layers.0.mlp.up_proj.lora_A.weight": np.ones((2, 2))}, ["unexpected", "merge_and_unload()"]),
        ({"model.layers.0.mlp.up_proj.qweight": np.ones((2, 2))}, ["unexpected", "use the model's unquantised files"]),
        ({"score.weight": np.ones((2, 24))}, ["unexpected: score.weight", "another task's head"]),
        ({"model.norm.weight": None}, ["missing: norm.weight", "the files are not complete"]),
        ({"model.norm.weight": np.ones(23)}, ["wrong shape", "check that config.json is theirs"]),
        ({"a\nb" + "c" * 300: np.ones(2)}, ["unexpected: 'a\\nb"]),
    ],
)
def test_what_to_do_about_weights_that_do_not_fit(tmp_path, changes, messages):
    weights = {**stored("llama-untied"), **changes}
    refused(write(tmp_path, "llama-untied", {k: v for k, v in weights.items() if v is not None}), *messages)


def test_weights_of_another_kind_of_model(tmp_path):
    refused(write(tmp_path, "llama-untied", stored("t5")), "config.json is of another kind of model than they are")


def test_numbers_stored_under_two_names_are_compared(tmp_path):
    weights = stored("gpt2")
    weights["transformer.h.0.attn.masked_bias"] = weights["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    assert_same(load_backbone(write(tmp_path, "gpt2", weights)), load_backbone(GOLDEN / "gpt2"))
