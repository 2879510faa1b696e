"""Qwen2 (Yang et al. 2024, arXiv:2407.10671) and Qwen3 (Yang et al. 2025, arXiv:2505.09388), dense."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import optional, setting
from jaxprompt.models.families.llama import llama_family, llama_fields, window_fields


def _windows(config: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    # 0 is allowed: every layer has a window.
    first = config.get("max_window_layers", 28)
    if first != 0 or isinstance(first, bool):
        first = 0 if first is None else setting(config, "max_window_layers", default=28)
    used = setting(config, "use_sliding_window", default=False, kind=bool)
    window = optional(config, "sliding_window", 4096) if used else None
    return window_fields(config, num_layers, window, [layer >= first for layer in range(num_layers)])


def _qwen2(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = llama_fields(config, names, vocab_size=151936, intermediate_size=22016, max_position_embeddings=32768)
    fields |= {"qkv_bias": True, "out_bias": False, "mlp_bias": False, **_windows(config, fields["num_layers"])}
    return DecoderConfig(**fields)


def _qwen3(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = llama_fields(
        config, names, vocab_size=151936, intermediate_size=22016, max_position_embeddings=32768, head_dim=128
    )
    fields |= {"qk_norm": "head", "mlp_bias": False, **_windows(config, fields["num_layers"])}
    return DecoderConfig(**fields)


QWEN2 = llama_family("qwen2", _qwen2)
QWEN3 = llama_family("qwen3", _qwen3)
