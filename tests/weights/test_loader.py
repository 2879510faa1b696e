import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import make_mesh, replicated
from jaxprompt.models.families import FAMILIES, Weight
from jaxprompt.weights.parts import aligned_empty, fill, views
from tests.devices import run_on_eight_devices

GOLDEN = Path(__file__).parents[1] / "golden"


def stored(name):
    return load_file(GOLDEN / name / "model.safetensors")


def write(folder, name, weights):
    """Makes a model folder with the config of golden `name` and other weights."""
    shutil.copy(GOLDEN / name / "config.json", folder)
    save_file(weights, folder / "model.safetensors")
    return folder


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


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


def split(folder, name, shards):
    weights = stored(name)
    shutil.copy(GOLDEN / name / "config.json", folder)
    files = {key: f"model-{i % shards:05}.safetensors" for i, key in enumerate(sorted(weights))}
    for file in set(files.values()):
        save_file({key: weights[key] for key in files if files[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def test_sharded_by_index(tmp_path):
    split(tmp_path, "llama-untied", 3)
    got, want = load_backbone(tmp_path), load_backbone(GOLDEN / "llama-untied")
    assert_same(got, want)
    assert got.fingerprint == want.fingerprint


def test_sharded_by_index_with_a_shard_missing(tmp_path):
    files = split(tmp_path, "llama-untied", 3)
    (tmp_path / files["lm_head.weight"]).unlink()
    refused(tmp_path, "does not exist, though the index lists it")


def test_index_lists_an_absent_tensor(tmp_path):
    files = split(tmp_path, "llama-untied", 2)
    files["model.extra"] = files["lm_head.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    refused(tmp_path, "lists model.extra")


def test_index_may_not_leave_the_folder(tmp_path):
    files = split(tmp_path, "llama-untied", 2)
    files["lm_head.weight"] = "../model.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    refused(tmp_path, "expected a file in the same folder")


def test_bfloat16_both_ways(tmp_path):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in stored("llama-untied").items()}
    folder = write(tmp_path, "llama-untied", half)
    want = load_backbone(GOLDEN / "llama-untied", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(want.params)} == {np.dtype(ml_dtypes.bfloat16)}
    assert_same(load_backbone(folder, dtype="bfloat16"), want)
    wide = load_backbone(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(wide.params["head"], half["lm_head.weight"].astype(np.float32))


def test_fingerprint_is_of_the_weights_and_not_of_the_dtype(tmp_path):
    want = load_backbone(GOLDEN / "bert").fingerprint
    assert load_backbone(GOLDEN / "bert", dtype="bfloat16").fingerprint == want
    weights = stored("bert")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"] + 1
    assert load_backbone(write(tmp_path, "bert", weights)).fingerprint != want


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


def test_parameters_take_the_read_arrays_over():
    """On a CPU a copy would hold every parameter twice: an array on JAX's alignment is taken as it is."""
    array = aligned_empty((300, 70), np.float32)
    array[:] = 1
    placed = jax.make_array_from_callback(array.shape, replicated(make_mesh()), lambda index: array)
    assert placed.unsafe_buffer_pointer() == array.ctypes.data


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


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_views_cut_what_the_whole_has(data):
    """Parts of parameters with transposed, split, blocked and skipped rows, against the whole parameter."""
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    transpose, kind = data.draw(st.booleans()), data.draw(st.sampled_from(["plain", "part", "block", "rows"]))
    options = {"plain": {}, "part": {"part": (1, 3)}, "rows": {"rows": (2, rows + 3)}}.get(kind)
    if kind == "block":
        block = data.draw(st.sampled_from([size for size in range(1, rows + 1) if rows % size == 0]))
        options = {"part": (1, 3), "block": block}
    row = Weight("w", "w", transpose=transpose, **options)
    tensor = np.arange(row.stored_rows(rows) * columns).reshape(row.stored_rows(rows), columns)
    if kind == "block":
        whole = tensor.reshape(rows // block, 3, block, columns)[:, 1].reshape(rows, columns)
    else:
        first = {"plain": 0, "part": rows, "rows": 2}[kind]
        whole = tensor[first : first + rows]
    start, left = (data.draw(st.integers(0, size - 1)) for size in (rows, columns))
    index = (
        slice(start, data.draw(st.integers(start + 1, rows))),
        slice(left, data.draw(st.integers(left + 1, columns))),
    )
    out = np.full([part.stop - part.start for part in index], -1.0)
    with ThreadPoolExecutor(2) as pool:
        pairs = [(out[at], source) for at, source in views(tensor.T if transpose else tensor, row, rows, index)]
        fill(pool, pairs)
    np.testing.assert_array_equal(out, whole[index])


def test_large_transposed_copies_are_cut_into_whole_strips():
    source = np.random.default_rng(0).normal(size=(1500, 1031)).astype(np.float32)
    out = np.empty((1031, 1500), ml_dtypes.bfloat16)
    with ThreadPoolExecutor(2) as pool:
        fill(pool, [(out, source.T)])
    np.testing.assert_array_equal(out, source.T.astype(ml_dtypes.bfloat16))


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


def refused(folder, *messages, **options):
    with pytest.raises(InputError) as error:
        load_backbone(folder, **options)
    for message in messages:
        assert message in str(error.value)
    assert "\n" not in str(error.value)


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


def test_no_config(tmp_path):
    refused(tmp_path, "config.json does not exist")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "expected a JSON object"), ("{}", "model_type None is not supported")],
)
def test_malformed_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, message)


def test_truncated_and_corrupt_files(tmp_path):
    folder = write(tmp_path, "gpt2", stored("gpt2"))
    file = folder / "model.safetensors"
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], data[:4], b"", b"\xff" * 64, b"{}" * 50):
        file.write_bytes(damaged)
        refused(folder, "model.safetensors is damaged or truncated")


def test_pickled_weights_are_refused_with_the_command_that_converts(tmp_path):
    shutil.copy(GOLDEN / "gpt2" / "config.json", tmp_path)
    refused(tmp_path, "holds no model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path, "never loads", 'python -c "import transformers', f".save_pretrained('{tmp_path}')")


def test_unknown_dtype_and_remat():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        load_backbone(GOLDEN / "gpt2", dtype="bfloat")
    with pytest.raises(InputError, match=r"unknown remat policy 'dot' \(did you mean 'dots'"):
        load_backbone(GOLDEN / "gpt2", remat="dot")
