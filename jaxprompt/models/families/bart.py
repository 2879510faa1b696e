"""BART (Lewis et al. 2019, arXiv:1910.13461) and mBART (Liu et al. 2020, arXiv:2001.08210)."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.block import BlockConfig
from jaxprompt.models.families.base import (
    SHARED_COPIES,
    Family,
    Weight,
    activation,
    head_kind,
    layer_count,
    refuse,
    setting,
    split_heads,
    token_id,
    weight_and_bias,
)
from jaxprompt.models.seq2seq import Seq2SeqConfig

# The position tables' first rows stand for padding.
_OFFSET = 2


def _translate(config: Mapping[str, Any], names: Set[str], multilingual: bool) -> Seq2SeqConfig:
    refuse(config, is_decoder=False, is_encoder_decoder=True, is_causal=True)
    hidden_size = setting(config, "d_model", "hidden_size", default=1024)

    def block(side: str, cross: bool) -> BlockConfig:
        # transformers' one name for both means the encoder's.
        heads, layers = (("num_attention_heads",), ("num_hidden_layers",)) if side == "encoder" else ((), ())
        num_heads = setting(config, f"{side}_attention_heads", *heads, default=16)
        head_dim = split_heads(hidden_size, num_heads)
        return BlockConfig(
            hidden_size=hidden_size,
            num_layers=layer_count(config, f"{side}_layers", *layers, default=12),
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=head_dim,
            mlp_size=setting(config, f"{side}_ffn_dim", default=4096),
            norm="layer",
            norm_epsilon=1e-5,
            activation=activation(config, "activation_function", "gelu"),
            gated_mlp=False,
            attention_scale=head_dim**-0.5,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            residual="pre" if multilingual else "post",
            cross=cross,
            # transformers cuts the encoder's stream off at what float16 can hold.
            wide_stream=multilingual,
        )

    # Where config.json does not say, transformers starts mBART with the beginning of sequence.
    start = token_id(config, "decoder_start_token_id", token_id(config, "bos_token_id", 0) if multilingual else 2)
    head = head_kind(config, tied_by_default=True, stored="lm_head.weight" in names)
    if head == "own":
        raise InputError("config.json: tie_word_embeddings=False is not implemented for BART (implemented: True)")
    return Seq2SeqConfig(
        encoder=block("encoder", False),
        decoder=block("decoder", True),
        vocab_size=setting(config, "vocab_size", default=50265),
        max_positions=setting(config, "max_position_embeddings", default=1024),
        relative=None,
        embed_norm=True,
        final_norm=multilingual,
        start_id=start,
        head="tied",
        head_bias="final_logits_bias" in names,
        embed_scale=hidden_size**0.5 if setting(config, "scale_embedding", default=False, kind=bool) else 1.0,
    )


def _stack_weights(side: str, config: Seq2SeqConfig) -> tuple[Weight, ...]:
    layer, layers = f"{side}.layers.{{layer}}", f"{side}/layers"
    return (
        Weight(
            f"{side}.embed_positions.weight",
            f"{side}/position/weight",
            rows=(_OFFSET, config.max_positions + _OFFSET),
        ),
        *weight_and_bias(f"{side}.layernorm_embedding", f"{side}/embed_norm"),
        *weight_and_bias(f"{side}.layer_norm", f"{side}/final_norm"),
        *_attention(f"{layer}.self_attn", f"{layers}/attention"),
        *weight_and_bias(f"{layer}.self_attn_layer_norm", f"{layers}/attention_norm"),
        *_attention(f"{layer}.encoder_attn", f"{layers}/cross"),
        *weight_and_bias(f"{layer}.encoder_attn_layer_norm", f"{layers}/cross_norm"),
        *weight_and_bias(f"{layer}.fc1", f"{layers}/mlp/up"),
        *weight_and_bias(f"{layer}.fc2", f"{layers}/mlp/down"),
        *weight_and_bias(f"{layer}.final_layer_norm", f"{layers}/mlp_norm"),
    )


def _attention(theirs: str, ours: str) -> tuple[Weight, ...]:
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    return tuple(row for a, b in names.items() for row in weight_and_bias(f"{theirs}.{a}", f"{ours}/{b}"))


def _weights(config: Seq2SeqConfig) -> tuple[Weight, ...]:
    return (
        Weight("shared.weight", "word/weight"),
        *_stack_weights("encoder", config),
        *_stack_weights("decoder", config),
        Weight("final_logits_bias", "head_bias"),
    )


# The copy of the tied head.
_IGNORED = (r"lm_head\.weight",)
BART = Family(
    "bart",
    prefix="model.",
    translate=lambda config, names: _translate(config, names, False),
    weights=_weights,
    ignored=_IGNORED,
    copies=SHARED_COPIES,
    forced_eos_id=2,
)
MBART = dataclasses.replace(BART, name="mbart", translate=lambda config, names: _translate(config, names, True))
