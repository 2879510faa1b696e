import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.models.families import FAMILIES, family_of
from jaxprompt.models.layers import ACTIVATIONS

GOLDEN = Path(__file__).parents[1] / "golden"


LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CAUSAL = [
    *("gpt2", "gpt-neo", "gptj", "gpt-neox", "opt", "llama-untied", "mistral", "qwen2", "qwen3", "phi3", "gemma"),
    *("gemma2", "gemma3", "olmo2", "granite", "t5", "mt5", "bart", "mbart"),
]
EPSILONS = [
    ("gpt2", "layer_norm_epsilon"),
    ("gpt-neox", "layer_norm_eps"),
    ("llama-untied", "rms_norm_eps"),
    ("gemma2", "rms_norm_eps"),
    ("bert", "layer_norm_eps"),
    ("roberta", "layer_norm_eps"),
    ("electra", "layer_norm_eps"),
    ("t5", "layer_norm_epsilon"),
]


def config(name, **changes):
    return {**json.loads((GOLDEN / name / "config.json").read_text()), **changes}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": 1}, "'scale_attn_by_inverse_layer_idx' is 1, expected true or"),
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
        ("llama-untied", {"rope_parameters": {"full_attention": {}}}, "for 'full_attention' is not .* for 'llama'"),
        ("llama-untied", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ("llama3-tied-biases", {"rope_parameters": {**LLAMA3, "factor": 0}}, "'llama3' has factor=0"),
        ("llama-untied", {"rope_parameters": {**LINEAR, "factor": 0.0}}, "'linear' has factor=0.0"),
        ("phi3", {"attention_bias": True}, "attention_bias=True"),
        ("phi3", {"mlp_bias": True}, "mlp_bias=True"),
        ("granite", {"logits_scaling": 0}, "'logits_scaling' is 0.0, expected a positive number"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, expected a positive number"),
        ("gemma2", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar is -4, expected a positive number"),
        ("qwen2", {"max_window_layers": "1"}, "'max_window_layers' is '1', expected an integer"),
        ("gpt-neo", {"attention_types": [["global", "local"]]}, "attention_types is .*, expected"),
        ("gpt-neo", {"attention_types": [[["global", "local"], 1, 2]]}, "attention_types is .*, expected"),
        ("gpt-neo", {"attention_types": ["global"]}, "attention_types is .*, expected"),
        *((name, {"is_causal": False}, "is_causal=False is not implemented") for name in CAUSAL),
        *(
            (name, {"pruned_heads": {"0": [1]}}, "pruned_heads=.* is not implemented")
            for name in ("gpt2", "bert", "t5")
        ),
        ("gptj", {"rotary_dim": None}, "'rotary_dim' is null"),
        ("llama-untied", {"rope_parameters": LINEAR, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("gemma3", {"rope_scaling": LINEAR, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("roberta", {"pad_token_id": -1}, "'pad_token_id' is -1, expected a token id"),
        *((name, {key: bad}, f"'{key}' is {bad}") for name, key in EPSILONS for bad in (math.nan, math.inf, -1e-5)),
        ("llama-untied", {"rms_norm_eps": 10**400}, "'rms_norm_eps' is 1000.*0, expected a finite float32 number"),
        ("llama-untied", {"rms_norm_eps": 1e38}, "'rms_norm_eps' is 1e[+]38, expected a finite float32 number"),
        ("granite", {"logits_scaling": math.nan}, "'logits_scaling' is nan, expected a finite float32 number"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "'attn_logit_softcapping' is 0.0, expected a positive number"),
        ("gemma2", {"final_logit_softcapping": -1.0}, "'final_logit_softcapping' is -1.0, expected a positive number"),
        (
            "gemma3",
            {"rope_local_base_freq": math.inf},
            "'rope_local_base_freq' is inf, expected a finite float32 number",
        ),
        ("llama-untied", {"vocab_size": -1}, "'vocab_size' is -1, expected a positive integer"),
        ("llama-untied", {"vocab_size": 61.0}, "'vocab_size' is 61.0, expected an integer"),
        ("llama-untied", {"vocab_size": [61] * 10**6}, r"'vocab_size' is \[61, 61, .*\.\.\.\], expected an integer"),
        ("llama-untied", {"hidden_act": "x" * 10**6}, r"hidden_act 'x+\.\.\.x+' is not implemented"),
        ("roberta", {"max_position_embeddings": 2}, "'max_position_embeddings' is 2, expected more than the 2"),
        ("t5", {"relative_attention_num_buckets": 3}, "relative_attention_num_buckets=3 .* at least 4 buckets"),
        ("t5", {"relative_attention_max_distance": 4, "relative_attention_num_buckets": 8}, "of more than half"),
        ("t5", {"decoder_start_token_id": 10**30}, "'decoder_start_token_id' is 1000.*, expected a token id"),
    ],
)
def test_refuses_by_name(name, changes, message):
    raw = config(name, **changes)
    with pytest.raises(InputError, match=message) as error:
        family_of(raw["model_type"]).translate(raw, set())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def translated(name, **changes):
    """The config of a golden model with other settings; None takes one out."""
    raw = {key: value for key, value in config(name, **changes).items() if key not in changes or value is not None}
    return FAMILIES[raw["model_type"]].translate(raw, set())


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("gptj", {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}),
        ("gptj", {"n_positions": "max_position_embeddings"}),
        ("gpt-neo", {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}),
        ("distilbert", {"dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}),
        ("t5", {"d_model": "hidden_size", "num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}),
        ("t5", {"d_kv": "head_dim"}),
        ("mt5", {"d_model": "hidden_size", "num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}),
        ("bart", {"d_model": "hidden_size", "encoder_attention_heads": "num_attention_heads"}),
        ("mbart", {"d_model": "hidden_size", "encoder_attention_heads": "num_attention_heads"}),
    ],
)
def test_settings_may_have_their_common_names(name, renamed):
    raw = config(name)
    common = {new: raw[old] for old, new in renamed.items()}
    assert translated(name, **dict.fromkeys(renamed), **common) == translated(name)


@pytest.mark.parametrize("kind", ["default", None])
def test_llama_rotates_whole_heads(kind):
    rope = {"rope_theta": 100.0, **({"rope_type": kind} if kind else {})}
    part = {**rope, "partial_rotary_factor": 0.5}
    assert translated("llama-untied", rope_parameters=part) == translated("llama-untied", rope_parameters=rope)


@pytest.mark.parametrize("kind", ["llama3", "yarn", "default"])
def test_the_length_beside_the_rotary_settings_counts(kind):
    scaling = {**LLAMA3, "rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 16}

    def rotary(inner, **outer):
        return translated("llama-untied", rope_parameters={**scaling, **inner}, **outer).rotary

    shorter = {"original_max_position_embeddings": 8}
    assert rotary({}, **shorter) == rotary(shorter)
    assert (rotary({}) == rotary(shorter)) == (kind == "default")


@pytest.mark.parametrize("act", ["quick_gelu", "relu2", "gelu_python", "gelu_python_tanh"])
def test_activations_of_older_and_newer_checkpoints(act):
    x = np.linspace(-4, 4, 33)
    erf = np.array([math.erf(number / math.sqrt(2)) for number in x])
    want = {
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "relu2": np.maximum(x, 0) ** 2,
        "gelu_python": x * (1 + erf) / 2,
        "gelu_python_tanh": x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    }
    np.testing.assert_allclose(
        ACTIVATIONS[translated("llama-untied", hidden_act=act).activation](x), want[act], atol=1e-5
    )


def test_where_phi3_keeps_the_length_that_longrope_starts_from():
    rope = config("phi3-longrope")["rope_scaling"]

    def longrope(outer, inner):
        scaling = rope if inner is None else {**rope, "original_max_position_embeddings": inner}
        return translated(
            "phi3-longrope",
            max_position_embeddings=32768,
            original_max_position_embeddings=outer,
            rope_scaling=scaling,
        )

    assert longrope(None, None) == longrope(4096, None)
    assert longrope(None, None).max_positions == 4096
    assert longrope(32, 16) == longrope(32, None)
    assert longrope(16, None) != longrope(32, None)


def test_mbart_starts_with_the_beginning_of_sequence_unless_told_otherwise():
    assert translated("mbart", decoder_start_token_id=None, bos_token_id=5).start_id == 5
    assert translated("mbart", decoder_start_token_id=None, bos_token_id=None).start_id == 0
    assert translated("mbart", decoder_start_token_id=7, bos_token_id=5).start_id == 7
    assert translated("bart", decoder_start_token_id=None, bos_token_id=5).start_id == 2


def test_null_is_no_window():
    raw = config("qwen2-windows", sliding_window=None)
    assert FAMILIES["qwen2"].translate(raw, set()).window is None
    assert translated("qwen2-windows", max_window_layers=0).local_layers == (True, True, True)


@pytest.mark.parametrize(
    ("name", "hidden_act", "hidden_activation", "activation"),
    [
        ("gemma", "gelu", None, "gelu_pytorch_tanh"),
        ("gemma", "gelu", "relu", "gelu_pytorch_tanh"),
        ("gemma", "relu", "gelu", "relu"),
        ("gemma", None, "relu", "gelu_pytorch_tanh"),
        ("gemma2", "relu", None, "gelu_pytorch_tanh"),
        ("gemma2", "gelu", "relu", "relu"),
        ("gemma2", None, "gelu", "gelu"),
    ],
)
def test_where_gemma_keeps_its_activation(name, hidden_act, hidden_activation, activation):
    found = translated(name, hidden_act=hidden_act, hidden_activation=hidden_activation)
    assert found.activation == activation


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


WRONG = [-1, 0, 10**30, 10**400, 1.5, 1e308, 1e-320, math.nan, "1", [1], {"a": 1}, True, [[]], [None], 2**31 - 1]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in GOLDEN.glob("*/config.json")))
def test_wrong_settings_never_escape_as_another_error(name):
    """Whatever stands where a setting is expected, it is taken or refused in one line."""
    raw = config(name)
    settings = [(key, None) for key in raw] + [(key, k) for key in raw if isinstance(raw[key], dict) for k in raw[key]]
    for (key, inner), wrong in itertools.product(settings, WRONG):
        changed = {**raw, key: wrong if inner is None else {**raw[key], inner: wrong}}
        try:
            family_of(changed.get("model_type")).translate(changed, {"decoder.final_layer_norm.weight"})
        except InputError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 700
