"""Merged models: the same logits from the weights alone."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.commands import main
from jaxprompt.methods import METHODS, Start
from jaxprompt.models.adapted import layer_weights
from jaxprompt.prompts import Prompt, save_prompt
from jaxprompt.types import Conditioning
from jaxprompt.weights.safetensors_file import open_tensors, write_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = np.array([[5, 9, 3, 11, 7, 4]])


def changed(folder, path, method="lora"):
    """A prompt file of changes of all weights of a model, away from their start."""
    backbone = jaxprompt.load_backbone(folder)
    names = sorted({name.split("/")[-2] for name in layer_weights(backbone.params)})
    options = {"lora": {"targets": names, "rank": 2}, "ia3": {"outputs": [n for n in names if n != "down"]}}
    made = METHODS[method].build(METHODS[method].Options(**options.get(method, {})), 0, backbone)
    leaves, structure = jax.tree.flatten(made.init(jax.random.key(0), Start(backbone)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    conditioning = jax.tree.map(np.asarray, made.apply(structure.unflatten(moved)))
    info = {"backbone": {"ref": str(folder), "fingerprint": backbone.fingerprint}, "method": method}
    return backbone, save_prompt(Prompt(conditioning, {}, info), path), Prompt(conditioning)


# Separate and transposed, one fused in parts, in blocks, and by rows; encoder and encoder-decoder.
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "lora") for name in ("gpt2", "gpt-neox", "t5")),
        *((name, "ia3") for name in ("phi3", "bert")),
        *(("gpt2", "bitfit"), ("bert-pretraining", "full"), ("qwen3", "norms"), ("bart", "full")),
        *(pytest.param(name, "lora", marks=pytest.mark.slow) for name in ("llama-untied", "phi3", "bert", "qwen2")),
        *(pytest.param(name, "ia3", marks=pytest.mark.slow) for name in ("gpt2", "gpt-neox", "t5", "qwen2")),
        *(
            pytest.param(name, "bitfit", marks=pytest.mark.slow)
            for name in ("gpt-neox", "bart", "qwen2", "roberta", "opt")
        ),
        *(pytest.param(name, "norms", marks=pytest.mark.slow) for name in ("gpt2", "bert", "t5", "gemma3", "gpt-neox")),
        *(
            pytest.param(name, "full", marks=pytest.mark.slow)
            for name in (
                "gpt2",
                "llama-untied",
                "gpt-neox",
                "t5",
                "opt",
                "phi3",
                "gemma3",
                "roberta",
                "electra-generator",
            )
        ),
    ],
)
def test_a_merged_model_computes_what_the_changed_one_does(tmp_path, capsys, name, method):
    backbone, path, prompt = changed(GOLDEN / name, tmp_path / "p.safetensors", method)
    assert main(["merge", str(path), "--out", str(tmp_path / "merged")]) == 0
    assert "tensors changed" in capsys.readouterr().out
    merged = jaxprompt.load_backbone(tmp_path / "merged")
    more = {"decoder_input_ids": IDS[:, :3]} if backbone.seq2seq else {}
    want = backbone.hidden(IDS, prompt=prompt, **more)
    np.testing.assert_allclose(merged.hidden(IDS, **more), want, atol=1e-4, rtol=1e-4)
    assert np.abs(np.asarray(want) - np.asarray(backbone.hidden(IDS, **more))).max() > 1e-2
    before, after = (open_tensors(folder / "model.safetensors") for folder in (GOLDEN / name, tmp_path / "merged"))
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {k: (v.shape, v.dtype) for k, v in after.items()}


def test_what_is_added_to_a_bias_comes_before_its_factor(tmp_path):
    backbone = jaxprompt.load_backbone(GOLDEN / "gpt2")
    paths = [changed(GOLDEN / "gpt2", tmp_path / f"{name}.safetensors", name)[2].deltas for name in ("ia3", "bitfit")]
    factors, shifts = paths
    deltas = {**factors, **shifts}
    assert "layers/attention/v/weight" in deltas and "layers/attention/v/bias" in deltas
    prompt = Prompt(Conditioning(deltas=deltas), {}, {"backbone": {"ref": str(GOLDEN / "gpt2")}})
    path = save_prompt(prompt, tmp_path / "both.safetensors")
    assert main(["merge", str(path), "--out", str(tmp_path / "merged")]) == 0
    want = backbone.logits(IDS, prompt=prompt)
    np.testing.assert_allclose(jaxprompt.load_backbone(tmp_path / "merged").logits(IDS), want, atol=1e-4, rtol=1e-4)


def test_a_tensor_that_is_stored_twice_changes_in_both_places(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "gpt2", folder)
    tensors = open_tensors(folder / "model.safetensors")
    word = next(name for name in tensors if name.endswith("wte.weight"))
    write_tensors(folder / "again.safetensors", {**tensors, "lm_head.weight": tensors[word]})
    (folder / "again.safetensors").rename(folder / "model.safetensors")
    backbone, path, prompt = changed(folder, tmp_path / "p.safetensors", "full")
    assert main(["merge", str(path), "--out", str(tmp_path / "merged")]) == 0
    after = open_tensors(tmp_path / "merged" / "model.safetensors")
    np.testing.assert_array_equal(after["lm_head.weight"], after[word])
    merged = jaxprompt.load_backbone(tmp_path / "merged")
    np.testing.assert_allclose(merged.logits(IDS), backbone.logits(IDS, prompt=prompt), atol=1e-4, rtol=1e-4)


def test_shards_keep_their_files_and_nothing_else_is_copied(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = open_tensors(GOLDEN / "llama-untied" / "model.safetensors")
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, held in shards.items():
        write_tensors(folder / file, {name: tensors[name] for name in held})
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(GOLDEN / "llama-untied" / "config.json", folder)
    (folder / "modeling.py").write_text("raise SystemExit")
    backbone, path, prompt = changed(folder, tmp_path / "p.safetensors")
    assert main(["merge", str(path), "--out", str(tmp_path / "merged")]) == 0
    assert sorted(p.name for p in (tmp_path / "merged").iterdir()) == [
        "config.json",
        "model.safetensors.index.json",
        "one.safetensors",
        "two.safetensors",
    ]
    merged = jaxprompt.load_backbone(tmp_path / "merged")
    np.testing.assert_allclose(merged.logits(IDS), backbone.logits(IDS, prompt=prompt), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_merged_is_refused(tmp_path, capsys):
    _, path, _ = changed(GOLDEN / "gpt2", tmp_path / "p.safetensors")
    soft = save_prompt(Prompt(Conditioning(soft=np.zeros((2, 24), np.float32))), tmp_path / "soft.safetensors")
    (tmp_path / "there").mkdir()
    for arguments, message in (
        ([str(soft), "--out", "new"], "holds soft, which no weight can hold"),
        ([str(path), "--out", str(tmp_path / "there")], "is there already"),
        ([str(path), "--out", str(tmp_path / "new"), "--model", str(GOLDEN / "llama-untied")], "it was learned for"),
        ([str(path), "--out", "/proc/none/new"], "cannot be written"),
    ):
        assert main(["merge", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
