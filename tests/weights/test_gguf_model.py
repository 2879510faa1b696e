"""GGUF files: the same models as their Hugging Face files."""

import dataclasses
import json
import shutil

import gguf
import jax
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.models.rotary import rotary_from
from jaxprompt.weights import parts
from jaxprompt.weights.gguf_file import PackedTensor, open_gguf
from tests.weights.folders import GOLDEN, refused
from tests.weights.gguf_files import CASES, config_of, write_gguf


def folder_of(folder, name):
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_the_model_it_was_made_of(tmp_path, name):
    want = load_backbone(folder_of(tmp_path / "folder", name))
    got = load_backbone(write_gguf(tmp_path / "model.gguf", name))
    # Gemma's norms lose the last bit where 1 is added.
    exact = "gemma" not in name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=0 if exact else 2e-7), got.params, want.params
    )
    for field in dataclasses.fields(got.config):
        one, other = getattr(got.config, field.name), getattr(want.config, field.name)
        if field.name in ("rotary", "local_rotary") and one is not None:
            assert jax.tree.all(
                jax.tree.map(lambda a, b: np.allclose(a, b), dataclasses.astuple(one), dataclasses.astuple(other))
            )
        elif isinstance(one, float):
            assert one == pytest.approx(other, rel=1e-6), field.name
        else:
            assert one == other, field.name
    ids = np.arange(1, 13)[None]
    np.testing.assert_allclose(got.logits(ids), want.logits(ids), atol=2e-5)


QUANTISED = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("rows", [slice(None), slice(3, 9)])
def test_packed_numbers_are_unpacked_where_they_are_copied(tmp_path, kind, rows):
    kind = gguf.GGMLQuantizationType[kind]
    wide = np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(wide, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed = open_gguf(tmp_path / "model.gguf").tensors["token_embd.weight"]
    want = gguf.quants.dequantize(gguf.quants.quantize(wide, kind), kind)
    assert packed.shape == want.shape and packed[rows].shape == want[rows].shape
    for got, whole in (
        (packed[rows], want[rows]),
        (packed[rows, 5:40], want[rows, 5:40]),
        (packed.T[:, rows], want.T[:, rows]),
    ):
        out = np.empty(whole.shape, np.float32)
        assert parts.copy(out, got)
        np.testing.assert_array_equal(out, whole)
    # What it is to NumPy and to the loader.
    np.testing.assert_array_equal(packed, want)
    assert (packed.T.strides, packed.nbytes, packed.size) == (want.T.strides, want.nbytes, want.size)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_unpacked_as_the_library_does(tmp_path, kind):
    # The library packs none of them: any bytes are such numbers, but for scales that are NaN.
    kind = gguf.GGMLQuantizationType[kind]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    stored = np.random.default_rng(0).integers(0, 60, (4, 2 * size), np.uint8)
    packed = PackedTensor(stored, kind, 512, (0, 512))
    np.testing.assert_array_equal(np.asarray(packed[1:3, 7:]), gguf.quants.dequantize(stored, kind)[1:3, 7:])


def test_a_quantised_file_can_be_quantised_again_and_split(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "phi3", kind=gguf.GGMLQuantizationType.Q8_0)
    plain, int8 = load_backbone(path), load_backbone(path, quantize="int8")
    weight, packed = (b.params["layers"]["mlp"]["up"]["weight"] for b in (plain, int8))
    np.testing.assert_allclose(packed.values * packed.scale[..., None], weight, atol=np.abs(weight).max() / 100)
    half = load_backbone(path, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    assert (
        len({plain.fingerprint, half.fingerprint, load_backbone(write_gguf(tmp_path / "b.gguf", "phi3")).fingerprint})
        == 2
    )


def test_llama_3s_scaling_is_found_again(tmp_path):
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = dict(zip(names, (32.0, 1.0, 4.0, 8192), strict=True), rope_type="llama3")
    config = config_of("llama-untied") | {"rope_parameters": {"rope_theta": 5e5, **scaling}, "rope_theta": 5e5}
    folder = tmp_path / "folder"
    shutil.copytree(GOLDEN / "llama-untied", folder)
    (folder / "config.json").write_text(json.dumps(config))
    want = load_backbone(folder)
    plain = rotary_from({"rope_theta": 5e5}, want.config.head_dim, 64).frequencies

    def change(metadata, tensors):
        metadata["llama.rope.freq_base"] = 5e5
        tensors["rope_freqs.weight"] = np.float32(plain) / np.float32(want.config.rotary.frequencies)

    got = load_backbone(write_gguf(tmp_path / "model.gguf", "llama-untied", change))
    np.testing.assert_allclose(got.config.rotary.frequencies, want.config.rotary.frequencies, rtol=1e-3)

    def other(metadata, tensors):
        change(metadata, tensors)
        tensors["rope_freqs.weight"] *= np.linspace(1, 2, len(plain), dtype=np.float32)

    refused(write_gguf(tmp_path / "other.gguf", "llama-untied", other), "rope_freqs.weight are not Llama 3's")


def spoil(**metadata):
    return lambda said, tensors: said.update({key.replace("__", "."): value for key, value in metadata.items()})


def drop(name):
    return lambda metadata, tensors: [part.pop(name) for part in (metadata, tensors) if name in part]


def nan(metadata, tensors):
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"] * np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("llama.block_count"), "lacks llama.block_count"),
        (drop("blk.1.attn_q.weight"), "missing: layers.1.self_attn.q_proj.weight"),
        (drop("token_embd.weight"), "lacks the tensor 'token_embd.weight'"),
        (nan, "hold NaN or infinities: layers.1.mlp.up_proj.weight"),
        (spoil(general__architecture="llamas"), "unknown architecture 'llamas' (did you mean 'llama'?"),
        (spoil(llama__embedding_length=26), "wrong shape"),
        (spoil(llama__expert_count=8), "a mixture of experts"),
        (spoil(llama__attention__head_count="many"), "llama.attention.head_count is 'many', expected int"),
        (spoil(llama__rope__scaling__type="spiral", llama__rope__scaling__factor=2.0), "rope.scaling.type 'spiral'"),
        (spoil(llama__attention__value_length=4), "keys and values of different widths"),
        (spoil(tokenizer__ggml__eos_token_id=900), "'eos_token_id' is 900"),
        (spoil(llama__attention__head_count=0), "model.gguf: 'num_attention_heads' is 0, expected a positive integer"),
        (spoil(llama__attention__head_count_kv=0), "model.gguf: 'num_key_value_heads' is 0"),
        (spoil(llama__rope__dimension_count=4), "rotary positions of 4 of 10 are not implemented"),
        (spoil(llama__logit_scale=0.5), "llama.logit_scale=0.5 is not implemented"),
        (spoil(llama__attention__causal=False), "llama.attention.causal=False is not implemented"),
        (spoil(llama__attention__sliding_window=4), "llama.attention.sliding_window=4 is not implemented"),
        (spoil(llama__rope__freq_base_swa=1e4), "llama.rope.freq_base_swa=10000.0 is not implemented"),
    ],
)
def test_what_a_file_lacks_or_cannot_be_is_said_in_one_line(tmp_path, change, message):
    refused(write_gguf(tmp_path / "model.gguf", "llama-untied", change), message, "model.gguf")


def test_settings_that_change_nothing_are_read_over(tmp_path):
    change = spoil(llama__logit_scale=1.0, llama__attention__causal=True, llama__attention__sliding_window=10**6)
    plain, said = (
        write_gguf(tmp_path / "a.gguf", "llama-untied"),
        write_gguf(tmp_path / "b.gguf", "llama-untied", change),
    )
    assert load_backbone(said).config == load_backbone(plain).config


def test_both_lengths_of_longrope_are_needed(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "phi3-longrope", drop("rope_factors_long.weight"))
    refused(path, "lacks the tensor 'rope_factors_long.weight'", "model.gguf")


def test_the_base_of_gemma_3s_windows_is_the_files(tmp_path):
    change = spoil(gemma3__rope__freq_base_swa=5000.0)
    path = write_gguf(tmp_path / "model.gguf", "gemma3", change)
    changed, plain = load_backbone(path), load_backbone(write_gguf(tmp_path / "plain.gguf", "gemma3"))
    assert (changed.logits(np.arange(1, 13)[None]) != plain.logits(np.arange(1, 13)[None])).any()
