"""GPT-2 (Radford et al. 2019), GPT-Neo (Black et al. 2021) and GPT-J (Wang and Komatsuzaki 2021)."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import (
    Family,
    Weight,
    activation,
    head_kind,
    layer_count,
    norm_epsilon,
    optional,
    refuse,
    setting,
    shown,
    split_heads,
    weight_and_bias,
)
from jaxprompt.models.rotary import rotary_from


def _fields(config: Mapping[str, Any], names: Set[str], head_tied: bool, **defaults: int) -> dict[str, Any]:
    """What the three have in common; `defaults` by GPT-2's names, where they are not GPT-2's."""
    refuse(config, is_causal=True)
    usual = {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, **defaults}
    hidden_size = setting(config, "n_embd", "hidden_size", default=usual["n_embd"])
    num_heads = setting(config, "n_head", "num_heads", "num_attention_heads", default=usual["n_head"])
    head_dim = split_heads(hidden_size, num_heads)
    return {
        "vocab_size": setting(config, "vocab_size", default=usual["vocab_size"]),
        "hidden_size": hidden_size,
        "num_layers": layer_count(config, "n_layer", "num_layers", "num_hidden_layers", default=usual["n_layer"]),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": head_dim,
        "mlp_size": setting(config, "n_inner", "intermediate_size", default=4 * hidden_size),
        "max_positions": setting(config, "n_positions", "max_position_embeddings", default=usual["n_positions"]),
        "norm": "layer",
        "norm_epsilon": norm_epsilon(config, "layer_norm_epsilon", 1e-5),
        "activation": activation(config, "activation_function", "gelu_new"),
        "gated_mlp": False,
        "rotary": None,
        "attention_scale": head_dim**-0.5,
        "mlp_bias": True,
        "head": head_kind(config, tied_by_default=head_tied, stored="lm_head.weight" in names),
    }


def _gpt2(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    # reorder_and_upcast_attn is not refused: attention logits are always float32 here.
    refuse(config, add_cross_attention=False)
    fields = _fields(config, names, head_tied=True) | {"qkv_bias": True, "out_bias": True}
    fields["scale_by_layer"] = setting(config, "scale_attn_by_inverse_layer_idx", default=False, kind=bool)
    if not setting(config, "scale_attn_weights", default=True, kind=bool):
        fields["attention_scale"] = 1.0
    return DecoderConfig(**fields)


def _gpt_neo(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = _fields(config, names, head_tied=True, n_embd=2048, n_layer=24, n_head=16, n_positions=2048)
    layers = fields["num_layers"]
    types = setting(config, "attention_types", default=[[["global", "local"], 12]], kind=list)
    try:
        # No more than a few too many, however often config.json repeats them.
        given = [kind for group, times in types for _ in range(min(times, layers + 1)) for kind in group]
    except (TypeError, ValueError):
        wanted = "expected [[[KIND, ...], TIMES], ...]"
        raise InputError(f"config.json: attention_types is {shown(types)}, {wanted}") from None
    kinds = setting(config, "attention_layers", default=None, kind=list) or given
    if len(kinds) != layers or any(kind not in ("global", "local") for kind in kinds):
        raise InputError(
            f"config.json: attention_types gives {shown(kinds)} for {layers} layers, expected global or local for each"
        )
    fields |= {"qkv_bias": False, "out_bias": True, "attention_scale": 1.0}
    if "local" in kinds:
        window = setting(config, "window_size", default=256)
        fields |= {"window": window, "local_layers": tuple(kind == "local" for kind in kinds)}
    return DecoderConfig(**fields)


def _gptj(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    sizes = {"vocab_size": 50400, "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048}
    fields = _fields(config, names, head_tied=False, **sizes)
    # Null is not the default, and no model's: the frequencies would be those of the hidden size.
    rotated = optional(config, "rotary_dim", 64)
    if rotated is None:
        raise InputError(
            "config.json: 'rotary_dim' is null, expected how many elements of a head are rotated (usually 64)"
        )
    rotary = rotary_from({"partial_rotary_factor": rotated / fields["head_dim"]}, fields["head_dim"], 1)
    return DecoderConfig(
        **fields
        | {
            "rotary": dataclasses.replace(rotary, interleaved=True),
            "qkv_bias": False,
            "out_bias": False,
            "residual": "parallel_shared",
            "head_bias": fields["head"] != "none",
        }
    )


def _weights(*attention: Weight) -> tuple[Weight, ...]:
    """The table of the three, which name all but attention and MLP alike."""
    return (
        Weight("wte.weight", "word/weight"),
        Weight("wpe.weight", "position/weight"),
        *weight_and_bias("h.{layer}.ln_1", "layers/attention_norm"),
        *attention,
        *weight_and_bias("h.{layer}.ln_2", "layers/mlp_norm"),
        *weight_and_bias("ln_f", "final_norm"),
        Weight("lm_head.weight", "head"),
        Weight("lm_head.bias", "head_bias"),
    )


# Causal masks that early releases stored as buffers, and the copy of a tied head.
_IGNORED = (
    r"h\.\d+\.attn\.(attention\.)?(bias|masked_bias)",
    r"h\.\d+\.attn\.rotary_emb\.inv_freq",
    r"lm_head\.weight",
)

_GPT2_WEIGHTS = _weights(
    *weight_and_bias("h.{layer}.attn.c_attn", "layers/attention/q", transpose=True, part=(0, 3)),
    *weight_and_bias("h.{layer}.attn.c_attn", "layers/attention/k", transpose=True, part=(1, 3)),
    *weight_and_bias("h.{layer}.attn.c_attn", "layers/attention/v", transpose=True, part=(2, 3)),
    *weight_and_bias("h.{layer}.attn.c_proj", "layers/attention/out", transpose=True),
    *weight_and_bias("h.{layer}.mlp.c_fc", "layers/mlp/up", transpose=True),
    *weight_and_bias("h.{layer}.mlp.c_proj", "layers/mlp/down", transpose=True),
)
_GPT_NEO_WEIGHTS = _weights(
    Weight("h.{layer}.attn.attention.q_proj.weight", "layers/attention/q/weight"),
    Weight("h.{layer}.attn.attention.k_proj.weight", "layers/attention/k/weight"),
    Weight("h.{layer}.attn.attention.v_proj.weight", "layers/attention/v/weight"),
    *weight_and_bias("h.{layer}.attn.attention.out_proj", "layers/attention/out"),
    *weight_and_bias("h.{layer}.mlp.c_fc", "layers/mlp/up"),
    *weight_and_bias("h.{layer}.mlp.c_proj", "layers/mlp/down"),
)
_GPTJ_WEIGHTS = _weights(
    Weight("h.{layer}.attn.q_proj.weight", "layers/attention/q/weight"),
    Weight("h.{layer}.attn.k_proj.weight", "layers/attention/k/weight"),
    Weight("h.{layer}.attn.v_proj.weight", "layers/attention/v/weight"),
    Weight("h.{layer}.attn.out_proj.weight", "layers/attention/out/weight"),
    *weight_and_bias("h.{layer}.mlp.fc_in", "layers/mlp/up"),
    *weight_and_bias("h.{layer}.mlp.fc_out", "layers/mlp/down"),
)
GPT2 = Family("gpt2", "transformer.", _gpt2, lambda config: _GPT2_WEIGHTS, _IGNORED)
GPT_NEO = Family("gpt_neo", "transformer.", _gpt_neo, lambda config: _GPT_NEO_WEIGHTS, _IGNORED)
GPTJ = Family("gptj", "transformer.", _gptj, lambda config: _GPTJ_WEIGHTS, _IGNORED)
