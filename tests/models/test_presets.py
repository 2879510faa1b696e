"""Models by name with random weights and no files."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.commands import main
from jaxprompt.errors import InputError
from jaxprompt.models import build, init_params
from jaxprompt.models.encoder import EncoderConfig, post_norm_layers
from jaxprompt.models.presets import PRESETS, preset
from jaxprompt.models.quantized import KINDS, Quantized
from jaxprompt.text.tokens import text_tokenizer
from jaxprompt.weights.tokenizer import byte_tokenizer
from tests.devices import run_on_eight_devices

# Layers, width and the published number of parameters of Table 2.1 of the GPT-3 paper.
GPT3 = {
    "gpt3-125m": (12, 768, 125e6),
    "gpt3-350m": (24, 1024, 350e6),
    "gpt3-760m": (24, 1536, 760e6),
    "gpt3-1.3b": (24, 2048, 1.3e9),
    "gpt3-2.7b": (32, 2560, 2.7e9),
    "gpt3-6.7b": (32, 4096, 6.7e9),
    "gpt3-13b": (40, 5120, 13e9),
    "gpt3-175b": (96, 12288, 175e9),
}
# Parameters in all, as the published checkpoints have them.
COUNTS = {
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama3-1b": 1_235_814_400,
    "llama3-3b": 3_212_749_824,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "t5-v1_1-small": 76_961_152,
    "t5-v1_1-base": 247_577_856,
    "t5-v1_1-large": 783_150_080,
    "t5-v1_1-xl": 2_849_757_184,
    "t5-v1_1-xxl": 11_135_332_352,
    # With pooler and masked head, without the next-sentence head of 2 (width + 1): BertForPreTraining less that.
    "bert-base": 110_106_428 - 2 * 769,
    "bert-large": 336_226_108 - 2 * 1025,
}


def abstract(name):
    module = build(preset(name)[1])
    return nn.meta.unbox(jax.eval_shape(lambda: init_params(module, jax.random.key(0))))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters_is_the_published_one(name):
    assert count(abstract(name)) == COUNTS[name]


def test_number_of_parameters_of_berts_own_part():
    """BertModel: embeddings, encoder and pooler."""
    assert count({part: tree for part, tree in abstract("bert-base").items() if part != "head"}) == 109_482_240


@pytest.mark.parametrize("name", GPT3)
def test_number_of_parameters_is_that_of_the_gpt3_paper(name):
    layers, width, published = GPT3[name]
    parameters = count(abstract(name))
    # Matrices, biases and norms of the layers; words, positions and the last norm.
    assert parameters == layers * (12 * width**2 + 13 * width) + (50257 + 2048 + 2) * width
    assert abs(parameters / published - 1) < 0.02


def test_every_preset_is_counted():
    assert {*COUNTS, *GPT3} == set(PRESETS)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpt2-smal", "did you mean 'gpt2-small'"), ("llama-3-8b", "did you mean 'llama3-8b'"), ("", "choose from")],
)
def test_an_unknown_name_is_refused_with_a_near_one(name, message):
    with pytest.raises(InputError, match=message) as error:
        load_backbone(f"random:{name}")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_generate_from_the_command_line(capsys):
    assert main(["generate", "random:gpt2-small", "--text", "hi", "--max-new-tokens", "3", "--quantize", "int8"]) == 0
    assert capsys.readouterr().err == ""


def test_a_preset_is_a_backbone_with_weights_of_the_usual_size():
    backbone = load_backbone("random:t5-v1_1-small", dtype="bfloat16", quantize="int8")
    assert (backbone.ref, backbone.family, backbone.seq2seq) == ("random:t5-v1_1-small", "t5", True)
    assert backbone.fingerprint == load_backbone("random:t5-v1_1-small").fingerprint
    params = backbone.params
    wide = {"word": params["word"]["weight"], "head": params["head"]}
    wide |= {name: layer["weight"].dequantize() for name, layer in params["encoder"]["layers"]["mlp"].items()}
    for name, weight in wide.items():
        numbers = np.asarray(weight, np.float32)
        assert abs(numbers.std() - 0.02) < 2e-4, name
        assert abs(numbers.mean()) < 2e-4, name
    assert wide["head"].dtype == jnp.bfloat16
    assert (params["decoder"]["final_norm"]["weight"] == 1).all()
    assert not np.array_equal(params["word"]["weight"], params["head"])
    cross = params["decoder"]["layers"]["cross"]["q"]["weight"]
    assert not np.array_equal(cross.values[0], cross.values[1])
    ids = backbone.tokenizer(["hello"])["input_ids"]
    assert np.isfinite(backbone.logits(ids, decoder_input_ids=[[0, 5]])).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "t5", "bert"])
def test_bytes_round_trip_through_every_tokenizer(family):
    tokenizer = byte_tokenizer(family)
    text = "Grüße, 世界!\n  \x00 🙂"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer) <= 256 + 4
    assert max(ids) < len(tokenizer)
    inside = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(inside) == len(text.encode())
    around = {"llama": (1, 0), "t5": (0, 1), "bert": (1, 1)}.get(family, (0, 0))
    assert ids[around[0] : len(ids) - around[1]] == inside
    tokens = text_tokenizer(tokenizer)
    assert (len(tokens.leading), len(tokens.trailing)) == around
    assert tokens.encode("<s>[SEP]</s>") == tokenizer.convert_tokens_to_ids(list("<s>[SEP]</s>"))
    assert tokens.pair_types == (family == "bert")
    needed = {"bert": ("cls", "sep", "mask", "pad"), "t5": ("eos", "pad")}.get(family, ("eos",))
    assert all(getattr(tokenizer, f"{name}_token_id") is not None for name in needed)


def test_t5s_decoder_starts_with_padding():
    assert byte_tokenizer("t5").pad_token_id == preset("t5-v1_1-small")[1].start_id == 0


EIGHT_DEVICES = """
import jax, numpy as np
from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.models.encoder import EncoderConfig, post_norm_layers
from jaxprompt.machine.sharding import make_mesh

sizes = post_norm_layers(1088, 2, 4, 520, "gelu", 1e-12)
config = EncoderConfig(**sizes, vocab_size=1002, max_positions=16, num_types=0, pooler=False, head="own")
meshes = make_mesh(devices=jax.devices()[:1]), make_mesh(data=2, fsdp=2, tensor=2)
for quantize in (None, "int8", "int4"):
    one, eight = (random_backbone(config, 3, dtype="bfloat16", mesh=mesh, quantize=quantize) for mesh in meshes)
    jax.tree.map(np.testing.assert_array_equal, one.params, eight.params)
    up = jax.tree.leaves(eight.params["layers"]["mlp"]["up"]["weight"])[0]
    assert up.addressable_shards[0].data.size * 4 == up.size, up.sharding
    assert eight.params["word"]["weight"].addressable_shards[0].data.shape == (501, 544)
print("same")
"""


def test_eight_devices_draw_what_one_does():
    assert run_on_eight_devices(EIGHT_DEVICES) == "same"


@pytest.mark.parametrize("quantize", KINDS)
def test_a_small_model_is_quantised_too(quantize):
    config = EncoderConfig(
        **post_norm_layers(24, 2, 2, 30, "gelu", 1e-12),
        vocab_size=61,
        max_positions=16,
        num_types=0,
        pooler=False,
        head="none",
    )
    backbone = random_backbone(config, quantize=quantize)
    leaves = jax.tree.leaves(backbone.params["layers"], is_leaf=lambda leaf: isinstance(leaf, Quantized))
    assert sum(isinstance(leaf, KINDS[quantize]) for leaf in leaves) == 6
    assert np.isfinite(backbone.hidden([[1, 2, 3]])).all()
