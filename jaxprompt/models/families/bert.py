"""BERT (Devlin et al. 2018, arXiv:1810.04805), and the sentence encoders built on it; ELECTRA (Clark et al. 2020)."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.encoder import EncoderConfig, post_norm_layers
from jaxprompt.models.families.base import (
    Family,
    Weight,
    activation,
    layer_count,
    norm_epsilon,
    refuse,
    setting,
    split_heads,
    weight_and_bias,
)


def bert_fields(config: Mapping[str, Any], positions_skipped: int = 0) -> dict[str, Any]:
    """Returns the `EncoderConfig` fields, but pooler and head, that a BERT-shaped config.json gives.

    Args:
      positions_skipped: rows of the position table that stand for padding.
    """
    refuse(config, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    hidden_size = setting(config, "hidden_size", default=768)
    num_heads = setting(config, "num_attention_heads", default=12)
    split_heads(hidden_size, num_heads)
    max_positions = setting(config, "max_position_embeddings", default=512)
    if max_positions <= positions_skipped:
        raise InputError(
            f"config.json: 'max_position_embeddings' is {max_positions}, expected more than the {positions_skipped} "
            "positions of padding"
        )
    return {
        **post_norm_layers(
            hidden_size,
            layer_count(config, "num_hidden_layers", default=12),
            num_heads,
            setting(config, "intermediate_size", default=3072),
            activation(config, "hidden_act", "gelu"),
            norm_epsilon(config, "layer_norm_eps", 1e-12),
        ),
        "vocab_size": setting(config, "vocab_size", default=30522),
        "max_positions": max_positions - positions_skipped,
        "skipped_positions": positions_skipped,
        "num_types": setting(config, "type_vocab_size", default=2),
    }


def masked_head(config: Mapping[str, Any], stored: bool) -> str:
    """Returns how the masked-language-model head is kept."""
    if not stored:
        return "none"
    return "tied" if setting(config, "tie_word_embeddings", default=True, kind=bool) else "own"


def embedding_weights(positions: tuple[int, int] | None = None) -> tuple[Weight, ...]:
    """The table of BERT's embeddings."""
    return (
        Weight("embeddings.word_embeddings.weight", "word/weight"),
        Weight("embeddings.position_embeddings.weight", "position/weight", rows=positions),
        Weight("embeddings.token_type_embeddings.weight", "type/weight"),
        *weight_and_bias("embeddings.LayerNorm", "embed_norm"),
    )


LAYER_WEIGHTS = (
    *weight_and_bias("encoder.layer.{layer}.attention.self.query", "layers/attention/q"),
    *weight_and_bias("encoder.layer.{layer}.attention.self.key", "layers/attention/k"),
    *weight_and_bias("encoder.layer.{layer}.attention.self.value", "layers/attention/v"),
    *weight_and_bias("encoder.layer.{layer}.attention.output.dense", "layers/attention/out"),
    *weight_and_bias("encoder.layer.{layer}.attention.output.LayerNorm", "layers/attention_norm"),
    *weight_and_bias("encoder.layer.{layer}.intermediate.dense", "layers/mlp/up"),
    *weight_and_bias("encoder.layer.{layer}.output.dense", "layers/mlp/down"),
    *weight_and_bias("encoder.layer.{layer}.output.LayerNorm", "layers/mlp_norm"),
)
# Buffers of the embeddings.
IGNORED = (r"embeddings\.(position_ids|token_type_ids)",)
# The first checkpoints keep TensorFlow's names of the norms' parameters.
RENAMES = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


def _bert(config: Mapping[str, Any], names: Set[str]) -> EncoderConfig:
    head = masked_head(config, "cls.predictions.transform.dense.weight" in names)
    return EncoderConfig(**bert_fields(config), pooler="pooler.dense.weight" in names, head=head)


def _electra(config: Mapping[str, Any], names: Set[str]) -> EncoderConfig:
    fields = bert_fields({"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, **config})
    embed_size = setting(config, "embedding_size", default=128)
    # Only the generator has a head over the vocabulary. Its activation is gelu, whatever the layers'.
    head = masked_head(config, "generator_predictions.dense.weight" in names)
    return EncoderConfig(
        **fields,
        pooler=False,
        head=head,
        head_activation="gelu",
        embed_size=None if embed_size == fields["hidden_size"] else embed_size,
    )


def decoder_weights(config: EncoderConfig, head: str) -> tuple[Weight, ...]:
    """The table of a head's vocabulary weight and bias; `head` is what the names start with.

    An untied head has a bias of its own, beside one of the older name that is not used.
    """
    bias = f"{head}.decoder.bias" if config.head == "own" else f"{head}.bias"
    return Weight(f"{head}.decoder.weight", "head/weight"), Weight(bias, "head/bias")


def _bert_weights(config: EncoderConfig) -> tuple[Weight, ...]:
    return (
        *embedding_weights(),
        *LAYER_WEIGHTS,
        *weight_and_bias("pooler.dense", "pooler"),
        *weight_and_bias("cls.predictions.transform.dense", "head/transform"),
        *weight_and_bias("cls.predictions.transform.LayerNorm", "head/norm"),
        *decoder_weights(config, "cls.predictions"),
    )


_ELECTRA_WEIGHTS = (
    *embedding_weights(),
    *weight_and_bias("embeddings_project", "project_in"),
    *LAYER_WEIGHTS,
    *weight_and_bias("generator_predictions.dense", "head/transform"),
    *weight_and_bias("generator_predictions.LayerNorm", "head/norm"),
    Weight("generator_lm_head.bias", "head/bias"),
    Weight("generator_lm_head.weight", "head/weight"),
)
BERT = Family(
    "bert",
    prefix="bert.",
    translate=_bert,
    weights=_bert_weights,
    # The next-sentence head, the copy of the tied word embedding, and the bias that an untied head does not use.
    ignored=(
        *IGNORED,
        r"cls\.seq_relationship\.(weight|bias)",
        r"cls\.predictions\.decoder\.weight",
        r"cls\.predictions\.bias",
    ),
    renames=RENAMES,
    tied_copy="cls.predictions.decoder.weight",
    copies=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
)
ELECTRA = Family(
    "electra",
    prefix="electra.",
    translate=_electra,
    weights=lambda config: _ELECTRA_WEIGHTS,
    # The discriminator's own head says which tokens were replaced.
    ignored=(*IGNORED, r"discriminator_predictions\..*", r"generator_lm_head\.weight"),
    renames=RENAMES,
    tied_copy="generator_lm_head.weight",
)
