"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia (Biderman et al. 2023, arXiv:2304.01373)."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import (
    Family,
    Weight,
    activation,
    head_kind,
    layer_count,
    norm_epsilon,
    refuse,
    setting,
    split_heads,
    weight_and_bias,
)
from jaxprompt.models.rotary import rotary_from


def _translate(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    refuse(config, is_causal=True)
    hidden_size = setting(config, "hidden_size", default=6144)
    num_heads = setting(config, "num_attention_heads", default=64)
    head_dim = split_heads(hidden_size, num_heads)
    max_positions = setting(config, "max_position_embeddings", default=2048)
    rope = {
        "rope_theta": setting(config, "rotary_emb_base", "rope_theta", default=10000.0, kind=float),
        "partial_rotary_factor": setting(config, "rotary_pct", "partial_rotary_factor", default=0.25, kind=float),
        **setting(config, "rope_scaling", "rope_parameters", default={}, kind=dict),
    }
    bias = setting(config, "attention_bias", default=True, kind=bool)
    return DecoderConfig(
        vocab_size=setting(config, "vocab_size", default=50432),
        hidden_size=hidden_size,
        num_layers=layer_count(config, "num_hidden_layers", default=44),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        mlp_size=setting(config, "intermediate_size", default=24576),
        max_positions=max_positions,
        norm="layer",
        norm_epsilon=norm_epsilon(config, "layer_norm_eps", 1e-5),
        activation=activation(config, "hidden_act", "gelu"),
        gated_mlp=False,
        rotary=rotary_from(rope, head_dim, max_positions),
        attention_scale=head_dim**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        residual="parallel" if setting(config, "use_parallel_residual", default=True, kind=bool) else "pre",
        head=head_kind(config, tied_by_default=False, stored="embed_out.weight" in names),
    )


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    # Queries, keys and values alternate head by head.
    fused = "layers.{layer}.attention.query_key_value"
    return (
        Weight("embed_in.weight", "word/weight"),
        *weight_and_bias("layers.{layer}.input_layernorm", "layers/attention_norm"),
        *weight_and_bias("layers.{layer}.post_attention_layernorm", "layers/mlp_norm"),
        *weight_and_bias(fused, "layers/attention/q", part=(0, 3), block=config.head_dim),
        *weight_and_bias(fused, "layers/attention/k", part=(1, 3), block=config.head_dim),
        *weight_and_bias(fused, "layers/attention/v", part=(2, 3), block=config.head_dim),
        *weight_and_bias("layers.{layer}.attention.dense", "layers/attention/out"),
        *weight_and_bias("layers.{layer}.mlp.dense_h_to_4h", "layers/mlp/up"),
        *weight_and_bias("layers.{layer}.mlp.dense_4h_to_h", "layers/mlp/down"),
        *weight_and_bias("final_layer_norm", "final_norm"),
        Weight("embed_out.weight", "head"),
    )


GPT_NEOX = Family(
    "gpt_neox",
    prefix="gpt_neox.",
    # transformers 5 may write the head under its own name for it.
    renames=(("lm_head.weight", "embed_out.weight"),),
    translate=_translate,
    weights=_weights,
    # Causal masks and rotary frequencies that early releases stored as buffers, and the copy of a tied head.
    ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", r"embed_out\.weight"),
    tied_copy="embed_out.weight",
)
