"""Phi-3 and Phi-4 mini (Abdin et al. 2024, arXiv:2404.14219): Llama with fused projections."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import Family, Weight, optional, refuse, setting
from jaxprompt.models.families.llama import (
    IGNORED,
    llama_fields,
    llama_weights,
    rope_parameters,
    window_fields,
    without_rope,
)
from jaxprompt.models.rotary import original_positions, rotary_from


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = rope_parameters(config)
    rope.setdefault("partial_rotary_factor", setting(config, "partial_rotary_factor", default=1.0, kind=float))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        # Early releases call their longrope "su" or "yarn". The original length beside it counts, not one within.
        original = setting(config, "original_max_position_embeddings", default=4096)
        rope = {**rope, "original_max_position_embeddings": original, "rope_type": "longrope"}
    return rope


def _translate(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    refuse(config, attention_bias=False, mlp_bias=False)
    max_positions = setting(config, "max_position_embeddings", default=4096)
    rope = _rope(config)
    fields = llama_fields(
        without_rope(config), names, vocab_size=32064, hidden_size=3072, intermediate_size=8192, max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    fields |= {
        "rotary": rotary_from(rope, fields["head_dim"], max_positions),
        "max_positions": original_positions(rope, max_positions),
        **window_fields(
            config, fields["num_layers"], optional(config, "sliding_window", None), [True] * fields["num_layers"]
        ),
    }
    return DecoderConfig(**fields)


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    qkv = "layers.{layer}.self_attn.qkv_proj.weight"
    fused = "layers.{layer}.mlp.gate_up_proj.weight"
    return (
        *(weight for weight in llama_weights() if not weight.name.endswith(("_proj.weight", "_proj.bias"))),
        Weight(qkv, "layers/attention/q/weight", rows=(0, q + 2 * kv)),
        Weight(qkv, "layers/attention/k/weight", rows=(q, q + 2 * kv)),
        Weight(qkv, "layers/attention/v/weight", rows=(q + kv, q + 2 * kv)),
        Weight("layers.{layer}.self_attn.o_proj.weight", "layers/attention/out/weight"),
        Weight(fused, "layers/mlp/gate/weight", part=(0, 2)),
        Weight(fused, "layers/mlp/up/weight", part=(1, 2)),
        Weight("layers.{layer}.mlp.down_proj.weight", "layers/mlp/down/weight"),
    )


PHI3 = Family("phi3", prefix="model.", translate=_translate, weights=_weights, ignored=IGNORED)
