"""T5 1.0, 1.1 and LM-adapted, Flan-T5, ByT5 (Raffel et al. 2020, arXiv:1910.10683), mT5 (Xue et al. 2021)."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.block import BlockConfig
from jaxprompt.models.families.base import (
    SHARED_COPIES,
    Family,
    Weight,
    layer_count,
    named_activation,
    norm_epsilon,
    refuse,
    setting,
    shown,
    token_id,
)
from jaxprompt.models.relative import RelativePositions
from jaxprompt.models.seq2seq import Seq2SeqConfig

# Relative positions set no limit; this one keeps counts sane.
MAX_POSITIONS = 2**20


def _translate(config: Mapping[str, Any], names: Set[str], defaults: Mapping[str, Any], scaled: bool) -> Seq2SeqConfig:
    refuse(config, is_decoder=False, is_encoder_decoder=True, is_causal=True)
    if "decoder.final_layer_norm.weight" not in names and names:
        raise InputError("the checkpoint holds T5's encoder alone: load one with encoder and decoder")
    layers = layer_count(config, "num_layers", "num_hidden_layers", default=defaults.get("num_layers", 6))
    num_heads = setting(config, "num_heads", "num_attention_heads", default=defaults.get("num_heads", 8))
    config = {**defaults, **config}
    projection = setting(config, "feed_forward_proj", default="relu", kind=str)
    gate, _, act = projection.rpartition("-")
    act = setting(config, "dense_act_fn", default="gelu_new" if projection == "gated-gelu" else act, kind=str)
    if gate not in ("", "gated"):
        raise InputError(f"config.json: feed_forward_proj {shown(projection)} is not ACTIVATION or gated-ACTIVATION")
    block = {
        "hidden_size": setting(config, "d_model", "hidden_size", default=512),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": setting(config, "d_kv", "head_dim", default=64),
        "mlp_size": setting(config, "d_ff", default=2048),
        "norm": "rms",
        "norm_epsilon": norm_epsilon(config, "layer_norm_epsilon", 1e-6),
        "activation": named_activation(act, "feed_forward_proj"),
        "gated_mlp": setting(config, "is_gated_act", default=gate == "gated", kind=bool),
        "attention_scale": 1.0,
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        # transformers keeps the MLPs' second matrix in float32, so that what it gives is float32.
        "wide_stream": True,
    }
    return Seq2SeqConfig(
        encoder=BlockConfig(**block, num_layers=layers),
        decoder=BlockConfig(**block, num_layers=layer_count(config, "num_decoder_layers", default=layers), cross=True),
        vocab_size=setting(config, "vocab_size", default=32128),
        max_positions=MAX_POSITIONS,
        relative=_relative(config),
        embed_norm=False,
        final_norm=True,
        start_id=token_id(config, "decoder_start_token_id", 0),
        # Newer configs say that the two are tied even where the files hold another head.
        head="own" if "lm_head.weight" in names else "tied",
        logit_scale=block["hidden_size"] ** -0.5 if scaled else 1.0,
    )


def _relative(config: Mapping[str, Any]) -> RelativePositions:
    buckets = setting(config, "relative_attention_num_buckets", default=32)
    distance = setting(config, "relative_attention_max_distance", default=128, most=MAX_POSITIONS)
    # Half of the buckets, and in the encoder half of each side's, are of one distance each; the others reach further.
    if buckets < 4 or distance <= buckets // 2:
        raise InputError(
            f"config.json: relative_attention_num_buckets={buckets} and relative_attention_max_distance={distance}: "
            "expected at least 4 buckets, and a distance of more than half as many"
        )
    return RelativePositions(buckets, distance)


def _t5(config: Mapping[str, Any], names: Set[str]) -> Seq2SeqConfig:
    # T5 1.0 ties its head and scales the last hidden state; later ones do neither.
    tied = setting(config, "tie_word_embeddings", default=True, kind=bool)
    return _translate(config, names, {}, setting(config, "scale_decoder_outputs", default=tied, kind=bool))


def _mt5(config: Mapping[str, Any], names: Set[str]) -> Seq2SeqConfig:
    sizes = {"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
    return _translate(config, names, sizes, False)


def _stack_weights(side: str, mlp: int) -> tuple[Weight, ...]:
    block, layers = f"{side}.block.{{layer}}.layer", f"{side}/layers"
    attention = "SelfAttention"
    return (
        Weight(f"{side}.block.0.layer.0.{attention}.relative_attention_bias.weight", f"{side}/relative_bias"),
        Weight(f"{block}.0.layer_norm.weight", f"{layers}/attention_norm/weight"),
        *(Weight(f"{block}.0.{attention}.{x}.weight", f"{layers}/attention/{x}/weight") for x in "qkv"),
        Weight(f"{block}.0.{attention}.o.weight", f"{layers}/attention/out/weight"),
        Weight(f"{block}.{mlp}.layer_norm.weight", f"{layers}/mlp_norm/weight"),
        Weight(f"{block}.{mlp}.DenseReluDense.wo.weight", f"{layers}/mlp/down/weight"),
        Weight(f"{side}.final_layer_norm.weight", f"{side}/final_norm/weight"),
    )


def _weights(config: Seq2SeqConfig) -> tuple[Weight, ...]:
    cross, layers = "decoder.block.{layer}.layer.1", "decoder/layers"
    # One matrix, or a gate and the other.
    wide = {"wi_0": "gate", "wi_1": "up"} if config.encoder.gated_mlp else {"wi": "up"}
    return (
        Weight("shared.weight", "word/weight"),
        *_stack_weights("encoder", 1),
        *_stack_weights("decoder", 2),
        Weight(f"{cross}.layer_norm.weight", f"{layers}/cross_norm/weight"),
        *(Weight(f"{cross}.EncDecAttention.{x}.weight", f"{layers}/cross/{x}/weight") for x in "qkv"),
        Weight(f"{cross}.EncDecAttention.o.weight", f"{layers}/cross/out/weight"),
        *(
            Weight(
                f"{side}.block.{{layer}}.layer.{at}.DenseReluDense.{theirs}.weight", f"{side}/layers/mlp/{ours}/weight"
            )
            for side, at in (("encoder", 1), ("decoder", 2))
            for theirs, ours in wide.items()
        ),
        Weight("lm_head.weight", "head"),
    )


# A bias that early releases stored and nothing ever used.
_IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
_REPEATS = (("lm_head.weight", "shared.weight"),)
T5 = Family("t5", "", _t5, _weights, _IGNORED, copies=SHARED_COPIES, repeats=_REPEATS)
MT5 = Family("mt5", "", _mt5, _weights, _IGNORED, copies=SHARED_COPIES, repeats=_REPEATS)
