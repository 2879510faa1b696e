"""OPT (Zhang et al. 2022, arXiv:2205.01068), the open GPT-3."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import (
    Family,
    Weight,
    activation,
    head_kind,
    layer_count,
    refuse,
    setting,
    split_heads,
    weight_and_bias,
)

# The position table's first rows stand for padding.
_OFFSET = 2


def _translate(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    refuse(config, is_causal=True)
    hidden_size = setting(config, "hidden_size", default=768)
    num_heads = setting(config, "num_attention_heads", default=12)
    embed_size = setting(config, "word_embed_proj_dim", default=hidden_size)
    before = setting(config, "do_layer_norm_before", default=True, kind=bool)
    removed = setting(config, "_remove_final_layer_norm", default=False, kind=bool)
    bias = setting(config, "enable_bias", default=True, kind=bool)
    head_dim = split_heads(hidden_size, num_heads)
    return DecoderConfig(
        vocab_size=setting(config, "vocab_size", default=50272),
        hidden_size=hidden_size,
        embed_size=None if embed_size == hidden_size else embed_size,
        num_layers=layer_count(config, "num_hidden_layers", default=12),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        mlp_size=setting(config, "ffn_dim", default=3072),
        max_positions=setting(config, "max_position_embeddings", default=2048),
        norm="layer",
        norm_epsilon=1e-5,
        norm_affine=setting(config, "layer_norm_elementwise_affine", default=True, kind=bool),
        activation=activation(config, "activation_function", "relu"),
        gated_mlp=False,
        rotary=None,
        attention_scale=head_dim**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        residual="pre" if before else "post",
        final_norm=before and not removed,
        head=head_kind(config, tied_by_default=True, stored="lm_head.weight" in names),
    )


def _weights(config: DecoderConfig) -> tuple[Weight, ...]:
    positions = (_OFFSET, config.max_positions + _OFFSET)
    return (
        Weight("decoder.embed_tokens.weight", "word/weight"),
        Weight("decoder.embed_positions.weight", "position/weight", rows=positions),
        Weight("decoder.project_in.weight", "project_in/weight"),
        Weight("decoder.project_out.weight", "project_out/weight"),
        *weight_and_bias("decoder.layers.{layer}.self_attn_layer_norm", "layers/attention_norm"),
        *weight_and_bias("decoder.layers.{layer}.self_attn.q_proj", "layers/attention/q"),
        *weight_and_bias("decoder.layers.{layer}.self_attn.k_proj", "layers/attention/k"),
        *weight_and_bias("decoder.layers.{layer}.self_attn.v_proj", "layers/attention/v"),
        *weight_and_bias("decoder.layers.{layer}.self_attn.out_proj", "layers/attention/out"),
        *weight_and_bias("decoder.layers.{layer}.final_layer_norm", "layers/mlp_norm"),
        *weight_and_bias("decoder.layers.{layer}.fc1", "layers/mlp/up"),
        *weight_and_bias("decoder.layers.{layer}.fc2", "layers/mlp/down"),
        *weight_and_bias("decoder.final_layer_norm", "final_norm"),
        Weight("lm_head.weight", "head"),
    )


OPT = Family("opt", "model.", _translate, _weights, ignored=(r"lm_head\.weight",))
