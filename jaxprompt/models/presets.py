"""Published model shapes by name, for random weights: throughput and memory can be measured without any files.

A preset is what config.json would say; the families translate it as they do a file's.
"""

from collections.abc import Mapping
from typing import Any

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.models import ModelConfig
from jaxprompt.models.families import Family, family_of


def _gpt(layers: int, width: int, heads: int, positions: int) -> dict[str, Any]:
    shape = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions}
    return {"model_type": "gpt2", "vocab_size": 50257, **shape}


def _llama3(layers: int, width: int, mlp: int, heads: int, head_dim: int, factor: float, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 128256,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": head_dim,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": tied,
    }


def _qwen3(layers: int, width: int, mlp: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    }


def _t5_v1_1(layers: int, width: int, mlp: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "vocab_size": 32128,
        "num_layers": layers,
        "d_model": width,
        "d_ff": mlp,
        "d_kv": 64,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def _bert(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "vocab_size": 30522,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Table 2.1 of Brown et al. 2020, arXiv:2005.14165; dense attention in place of every other layer's sparse one. Where
    # its heads and head size do not multiply to its width (1.3B: 24 of 128 in 2048, 13B: 40 of 128 in 5140), the
    # nearest shape in which they do: it also has the number of parameters that the table names.
    "gpt3-125m": _gpt(12, 768, 12, 2048),
    "gpt3-350m": _gpt(24, 1024, 16, 2048),
    "gpt3-760m": _gpt(24, 1536, 16, 2048),
    "gpt3-1.3b": _gpt(24, 2048, 16, 2048),
    "gpt3-2.7b": _gpt(32, 2560, 32, 2048),
    "gpt3-6.7b": _gpt(32, 4096, 32, 2048),
    "gpt3-13b": _gpt(40, 5120, 40, 2048),
    "gpt3-175b": _gpt(96, 12288, 96, 2048),
    "gpt2-small": _gpt(12, 768, 12, 1024),
    "gpt2-medium": _gpt(24, 1024, 16, 1024),
    "gpt2-large": _gpt(36, 1280, 20, 1024),
    "gpt2-xl": _gpt(48, 1600, 25, 1024),
    # Llama 3.2 1B and 3B, Llama 3.1 8B and 70B.
    "llama3-1b": _llama3(16, 2048, 8192, 32, 64, 32.0, True),
    "llama3-3b": _llama3(28, 3072, 8192, 24, 128, 32.0, True),
    "llama3-8b": _llama3(32, 4096, 14336, 32, 128, 8.0, False),
    "llama3-70b": _llama3(80, 8192, 28672, 64, 128, 8.0, False),
    "qwen3-0.6b": _qwen3(28, 1024, 3072, 16),
    "qwen3-4b": _qwen3(36, 2560, 9728, 32),
    "t5-v1_1-small": _t5_v1_1(8, 512, 1024, 6),
    "t5-v1_1-base": _t5_v1_1(12, 768, 2048, 12),
    "t5-v1_1-large": _t5_v1_1(24, 1024, 2816, 16),
    "t5-v1_1-xl": _t5_v1_1(24, 2048, 5120, 32),
    "t5-v1_1-xxl": _t5_v1_1(24, 4096, 10240, 64),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
}
# The optional parts that a checkpoint of the family has, by a name of each: an own head, BERT's pooler and masked head.
_PARTS: Mapping[str, frozenset[str]] = {
    "gpt2": frozenset(),
    "llama": frozenset({"lm_head.weight"}),
    "qwen3": frozenset({"lm_head.weight"}),
    "t5": frozenset({"lm_head.weight", "decoder.final_layer_norm.weight"}),
    "bert": frozenset({"pooler.dense.weight", "cls.predictions.transform.dense.weight"}),
}


def preset(name: str) -> tuple[Family, ModelConfig]:
    """Returns the family and the config of a preset; raises InputError naming the nearest for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"no preset 'random:{name}'{did_you_mean(name, PRESETS)}")
    raw = PRESETS[name]
    family = family_of(raw["model_type"])
    return family, family.translate(raw, _PARTS[family.name])
