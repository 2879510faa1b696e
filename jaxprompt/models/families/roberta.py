"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-RoBERTa (Conneau et al. 2019), DistilBERT (Sanh et al. 2019)."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.encoder import EncoderConfig, post_norm_layers
from jaxprompt.models.families.base import (
    Family,
    Weight,
    activation,
    layer_count,
    refuse,
    setting,
    split_heads,
    token_id,
    weight_and_bias,
)
from jaxprompt.models.families.bert import (
    IGNORED,
    LAYER_WEIGHTS,
    RENAMES,
    bert_fields,
    decoder_weights,
    embedding_weights,
    masked_head,
)


def _roberta(config: Mapping[str, Any], names: Set[str]) -> EncoderConfig:
    # The position table's first rows stand for padding: positions start behind the padding id.
    skipped = token_id(config, "pad_token_id", 1) + 1
    vocab_size = 50265 if config.get("model_type", "roberta") == "roberta" else 30522
    fields = bert_fields({"vocab_size": vocab_size, **config}, skipped)
    head = masked_head(config, "lm_head.dense.weight" in names)
    return EncoderConfig(**fields, pooler="pooler.dense.weight" in names, head=head, head_activation="gelu")


def _distilbert(config: Mapping[str, Any], names: Set[str]) -> EncoderConfig:
    refuse(config)
    hidden_size, num_heads = (
        setting(config, "dim", "hidden_size", default=768),
        setting(config, "n_heads", "num_attention_heads", default=12),
    )
    split_heads(hidden_size, num_heads)
    return EncoderConfig(
        **post_norm_layers(
            hidden_size,
            layer_count(config, "n_layers", "num_hidden_layers", default=6),
            num_heads,
            setting(config, "hidden_dim", default=3072),
            activation(config, "activation", "gelu"),
            1e-12,
        ),
        vocab_size=setting(config, "vocab_size", default=30522),
        max_positions=setting(config, "max_position_embeddings", default=512),
        num_types=0,
        pooler=False,
        head=masked_head(config, "vocab_transform.weight" in names),
    )


def _roberta_weights(config: EncoderConfig) -> tuple[Weight, ...]:
    return (
        *embedding_weights((config.skipped_positions, config.max_positions + config.skipped_positions)),
        *LAYER_WEIGHTS,
        *weight_and_bias("pooler.dense", "pooler"),
        *weight_and_bias("lm_head.dense", "head/transform"),
        *weight_and_bias("lm_head.layer_norm", "head/norm"),
        *decoder_weights(config, "lm_head"),
    )


_DISTILBERT_WEIGHTS = (
    *(weight for weight in embedding_weights() if "token_type" not in weight.name),
    *weight_and_bias("transformer.layer.{layer}.attention.q_lin", "layers/attention/q"),
    *weight_and_bias("transformer.layer.{layer}.attention.k_lin", "layers/attention/k"),
    *weight_and_bias("transformer.layer.{layer}.attention.v_lin", "layers/attention/v"),
    *weight_and_bias("transformer.layer.{layer}.attention.out_lin", "layers/attention/out"),
    *weight_and_bias("transformer.layer.{layer}.sa_layer_norm", "layers/attention_norm"),
    *weight_and_bias("transformer.layer.{layer}.ffn.lin1", "layers/mlp/up"),
    *weight_and_bias("transformer.layer.{layer}.ffn.lin2", "layers/mlp/down"),
    *weight_and_bias("transformer.layer.{layer}.output_layer_norm", "layers/mlp_norm"),
    *weight_and_bias("vocab_transform", "head/transform"),
    *weight_and_bias("vocab_layer_norm", "head/norm"),
    Weight("vocab_projector.bias", "head/bias"),
    Weight("vocab_projector.weight", "head/weight"),
)
ROBERTA = Family(
    "roberta",
    prefix="roberta.",
    translate=_roberta,
    weights=_roberta_weights,
    # The copy of the tied word embedding, and the bias that an untied head does not use.
    ignored=(*IGNORED, r"lm_head\.decoder\.weight", r"lm_head\.bias"),
    renames=RENAMES,
    tied_copy="lm_head.decoder.weight",
    copies=(("lm_head.decoder.bias", "lm_head.bias"),),
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, name="xlm-roberta")
DISTILBERT = Family(
    "distilbert",
    prefix="distilbert.",
    translate=_distilbert,
    weights=lambda config: _DISTILBERT_WEIGHTS,
    ignored=(*IGNORED, r"vocab_projector\.weight"),
    tied_copy="vocab_projector.weight",
)
