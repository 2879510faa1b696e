import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxprompt.backbone import load_backbone
from jaxprompt.weights.files import ModelFiles, fingerprint
from tests.weights.folders import GOLDEN, assert_same, refused, split, stored, write


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


def test_fingerprint_is_of_the_weights_and_not_of_the_dtype(tmp_path):
    want = load_backbone(GOLDEN / "bert").fingerprint
    assert load_backbone(GOLDEN / "bert", dtype="bfloat16").fingerprint == want
    weights = stored("bert")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"] + 1
    assert load_backbone(write(tmp_path, "bert", weights)).fingerprint != want


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fingerprint_sees_a_tenth_of_the_rows_and_every_fifth(data):
    """Whatever the rows' length, in one piece wherever it is, or all over the tensor."""
    rows, columns = data.draw(st.integers(10, 3000)), data.draw(st.integers(1, 700))
    before = np.zeros((rows, columns), np.float32)
    after = before.copy()
    if data.draw(st.booleans()):
        some = -(-rows // 10)
        start = data.draw(st.integers(0, rows - some))
        after[start : start + some] = 1
    else:
        after[data.draw(st.integers(0, 4)) :: 5] = 1
    one, other = (fingerprint(ModelFiles(Path(), {"w": array}), "", {"w": "w"}) for array in (before, after))
    assert one != other
    assert one == fingerprint(ModelFiles(Path(), {"w": before.copy()}), "", {"w": "w"})


@pytest.mark.parametrize("at", [0, 1, 77, -1])
def test_fingerprint_sees_every_number_of_a_small_tensor(at):
    array = np.ones(78, np.float16)
    changed = array.copy()
    changed[at] += 1
    one, other = (fingerprint(ModelFiles(Path(), {"w": x}), "", {"w": "w"}) for x in (array, changed))
    assert one != other


def test_fingerprint_of_a_model_with_other_rows_of_its_embedding(tmp_path):
    """Between the first and the middle row, all of them."""
    weights = stored("stories260K")
    word = weights["model.embed_tokens.weight"]
    word[1 : len(word) // 2 - 1] += 1e-3
    changed = load_backbone(write(tmp_path, "stories260K", weights)).fingerprint
    assert changed != load_backbone(GOLDEN / "stories260K").fingerprint


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "holds a PEFT adapter", "name the folder of its base model", "merge_and_unload()")
    shutil.copy(GOLDEN / "gpt2" / "config.json", tmp_path)
    save_file({"x": np.ones(1)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "holds a PEFT adapter")
    (tmp_path / "adapter_config.json").unlink()
    refused(tmp_path, "but adapter_model.safetensors: rename the one that is the whole model to model.safetensors")
    save_file({"x": np.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    refused(tmp_path, "which says what its shards hold", "download it too")


@pytest.mark.parametrize("inner", ["gpt2", "snapshots/0123"])
def test_a_folder_around_the_models(tmp_path, inner):
    shutil.copytree(GOLDEN / "gpt2", tmp_path / inner)
    refused(tmp_path, f"did you mean {str(tmp_path / inner)!r}?")


@pytest.mark.parametrize("shard", ["", ".", "..", "a\0b", "a/b"])
def test_shards_that_are_no_file_names(tmp_path, shard):
    files = split(tmp_path, "llama-untied", 2)
    files["lm_head.weight"] = shard
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    refused(tmp_path, "download it again" if shard not in (".", "..") else "expected a file")
