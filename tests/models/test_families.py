import json
from pathlib import Path

import pytest

from jaxprompt.errors import InputError
from jaxprompt.models.families import FAMILIES, family_of

GOLDEN = Path(__file__).parents[1] / "golden"


def config(name, **changes):
    return {**json.loads((GOLDEN / name / "config.json").read_text()), **changes}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"activation_function": "geluu"}, "did you mean 'gelu"),
        ("gpt2", {"n_layer": "3"}, "'n_layer' is '3', expected an integer"),
        ("gpt2", {"n_layer": 0}, "expected a positive integer"),
        ("gpt2", {"n_head": 5}, "not a multiple of 5"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama-untied", {"num_key_value_heads": 3}, "3 kv heads"),
        ("llama-untied", {"hidden_act": "xielu"}, "xielu"),
        ("llama-untied", {"rope_parameters": "linear"}, "expected an object"),
        ("llama-untied", {"attention_bias": 1}, "expected true or false"),
        ("llama-untied", {"rms_norm_eps": True}, "expected a number"),
    ],
)
def test_refuses_by_name(name, changes, message):
    raw = config(name, **changes)
    with pytest.raises(InputError, match=message) as error:
        family_of(raw["model_type"]).translate(raw, set())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model_type", ["mamba", None, ["bert"]])
def test_unknown_family_lists_the_known_ones(model_type):
    with pytest.raises(InputError, match=r"supported: gpt2, opt, .*llama, mistral, .*bert, roberta"):
        family_of(model_type)


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_are_those_of_the_hugging_face_config(name):
    """Hugging Face leaves default values out of config.json; transformers' own defaults must fill in."""
    transformers = pytest.importorskip("transformers")
    full = transformers.AutoConfig.for_model(name).to_dict()
    assert FAMILIES[name].translate({"model_type": name}, set()) == FAMILIES[name].translate(full, set())


def test_names_of_all_releases():
    bert, gpt2 = FAMILIES["bert"], FAMILIES["gpt2"]
    assert bert.canonical("bert.embeddings.LayerNorm.gamma") == bert.canonical("embeddings.LayerNorm.weight")
    assert bert.canonical("cls.predictions.transform.LayerNorm.beta") == "cls.predictions.transform.LayerNorm.bias"
    assert gpt2.canonical("transformer.h.0.ln_1.weight") == gpt2.canonical("h.0.ln_1.weight") == "h.0.ln_1.weight"


def test_head_follows_what_is_stored():
    llama = config("llama-untied")
    translate = FAMILIES["llama"].translate
    assert translate(llama, {"lm_head.weight"}).head == "own"
    assert translate(llama, set()).head == "none"
    assert translate({**llama, "tie_word_embeddings": True}, set()).head == "tied"
    bert = FAMILIES["bert"].translate(config("bert"), {"cls.predictions.transform.dense.weight"})
    assert (bert.head, bert.pooler) == ("tied", False)
