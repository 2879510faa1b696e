"""Llama 1 to 3 (Touvron et al. 2023, arXiv:2302.13971; Dubey et al. 2024, arXiv:2407.21783) and its closest kin.

Mistral (Jiang et al. 2023, arXiv:2310.06825) adds a window, Granite (IBM 2024) four factors. The other families of this
shape start from `llama_fields` and `llama_weights`.
"""

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
from jaxprompt.models.rotary import original_positions, rotary_from

# Rotary frequencies that early releases stored as buffers, and the copy of a tied head.
IGNORED = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"rotary_emb\.inv_freq", r"lm_head\.weight")


def without_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json without its rotary settings, for `llama_fields` of a family that reads them by itself."""
    return {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_parameters")}


def rope_parameters(config: Mapping[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    """Returns the rotary settings of transformers 5 (`rope_parameters`) or before (`rope_scaling`, `rope_theta`)."""
    scaling = setting(config, "rope_scaling", "rope_parameters", default={}, kind=dict)
    nested = next((name for name, value in scaling.items() if isinstance(value, dict)), None)
    if nested is not None:
        kind = config.get("model_type")
        raise InputError(f"config.json: rope_parameters of its own for {shown(nested)} is not implemented for {kind!r}")
    rope = {"rope_theta": setting(config, "rope_theta", default=theta, kind=float), **scaling}
    original = setting(config, "original_max_position_embeddings", default=None)
    if original is not None and rope.get("rope_type", rope.get("type")) in ("llama3", "longrope", "yarn"):
        # As in transformers, the length beside the rotary settings counts, not one within.
        rope["original_max_position_embeddings"] = original
    return rope


def of_whole_heads(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns rotary settings without `partial_rotary_factor`: of these families, transformers rotates whole heads,
    whatever the default kind's settings say. Raises InputError for another kind's."""
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1.0) and rope.get("rope_type", rope.get("type", "default")) != "default":
        raise InputError(
            f"config.json: partial_rotary_factor={shown(part)} is not implemented for a scaled rotary embedding"
        )
    return {key: value for key, value in rope.items() if key != "partial_rotary_factor"}


def llama_fields(config: Mapping[str, Any], names: Set[str], **defaults: Any) -> dict[str, Any]:
    """Returns the `DecoderConfig` fields that a Llama-shaped config.json gives.

    Args:
      names: of the stored weights.
      defaults: of settings that config.json may lack, where they are not Llama's.
    """
    refuse(config, is_causal=True)
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "activation": ("hidden_act", "silu"),
        "tie_word_embeddings": False,
        **defaults,
    }

    def number(name: str) -> Any:
        return setting(config, name, default=defaults[name])

    hidden_size, num_heads = number("hidden_size"), number("num_attention_heads")
    num_kv_heads = number("num_key_value_heads") or num_heads
    if num_heads % num_kv_heads:
        raise InputError(f"config.json: {num_heads} attention heads are not a multiple of {num_kv_heads} kv heads")
    head_dim = number("head_dim") or split_heads(hidden_size, num_heads)
    max_positions = number("max_position_embeddings")
    rope = of_whole_heads(config, rope_parameters(config))
    attention_bias = setting(config, "attention_bias", default=False, kind=bool)
    return {
        "vocab_size": number("vocab_size"),
        "hidden_size": hidden_size,
        "num_layers": layer_count(config, "num_hidden_layers", default=defaults["num_hidden_layers"]),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "mlp_size": number("intermediate_size"),
        "max_positions": original_positions(rope, max_positions),
        "norm": "rms",
        "norm_epsilon": norm_epsilon(config, "rms_norm_eps", defaults["rms_norm_eps"]),
        "activation": activation(config, *defaults["activation"]),
        "gated_mlp": True,
        "rotary": rotary_from(rope, head_dim, max_positions),
        "attention_scale": head_dim**-0.5,
        "qkv_bias": attention_bias,
        "out_bias": attention_bias,
        "mlp_bias": setting(config, "mlp_bias", default=False, kind=bool),
        "head": head_kind(config, tied_by_default=defaults["tie_word_embeddings"], stored="lm_head.weight" in names),
    }


def window_fields(config: Mapping[str, Any], num_layers: int, window: int | None, local: list[bool]) -> dict[str, Any]:
    """Returns the `DecoderConfig` fields of sliding windows.

    Args:
      window: how many positions a token sees, itself counted; None: all.
      local: per layer, whether it has the window, unless config.json says it by `layer_types`.
    """
    kinds = setting(config, "layer_types", default=None, kind=list)
    if kinds is not None:
        known = ("full_attention", "sliding_attention")
        unknown = next((kind for kind in kinds if kind not in known), None)
        if unknown is not None or len(kinds) != num_layers:
            what = (
                f"holds {shown(unknown)}"
                if unknown is not None
                else f"has {len(kinds)} entries for {num_layers} layers"
            )
            raise InputError(f"config.json: layer_types {what} (implemented: one of {', '.join(known)} per layer)")
        local = [kind == "sliding_attention" for kind in kinds]
    if window is None or not any(local):
        return {}
    return {"window": window, "local_layers": tuple(local)}


def llama_weights(*norms: tuple[str, str]) -> tuple[Weight, ...]:
    """Returns the table of a Llama-shaped family.

    Args:
      norms: Hugging Face's and our name of each norm of a layer; default: those of Llama.
    """
    norms = norms or (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"))
    return (
        Weight("embed_tokens.weight", "word/weight"),
        *(Weight(f"layers.{{layer}}.{theirs}.weight", f"layers/{ours}/weight") for theirs, ours in norms),
        *weight_and_bias("layers.{layer}.self_attn.q_proj", "layers/attention/q"),
        *weight_and_bias("layers.{layer}.self_attn.k_proj", "layers/attention/k"),
        *weight_and_bias("layers.{layer}.self_attn.v_proj", "layers/attention/v"),
        *weight_and_bias("layers.{layer}.self_attn.o_proj", "layers/attention/out"),
        Weight("layers.{layer}.self_attn.q_norm.weight", "layers/attention/q_norm/weight"),
        Weight("layers.{layer}.self_attn.k_norm.weight", "layers/attention/k_norm/weight"),
        *weight_and_bias("layers.{layer}.mlp.gate_proj", "layers/mlp/gate"),
        *weight_and_bias("layers.{layer}.mlp.up_proj", "layers/mlp/up"),
        *weight_and_bias("layers.{layer}.mlp.down_proj", "layers/mlp/down"),
        Weight("norm.weight", "final_norm/weight"),
        Weight("lm_head.weight", "head"),
    )


def llama_family(name: str, translate: Any, *norms: tuple[str, str]) -> Family:
    """Returns a family with Llama's names of weights; `norms` as in `llama_weights`."""
    table = llama_weights(*norms)
    return Family(name, prefix="model.", translate=translate, weights=lambda config: table, ignored=IGNORED)


def _llama(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    # pretraining_tp is not refused: it splits the same matmuls.
    return DecoderConfig(**llama_fields(config, names))


def _mistral(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = llama_fields(
        config, names, num_key_value_heads=8, intermediate_size=14336, max_position_embeddings=4096 * 32
    )
    layers = fields["num_layers"]
    fields |= window_fields(config, layers, optional(config, "sliding_window", 4096), [True] * layers)
    return DecoderConfig(**fields)


def _granite(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    def factor(name: str) -> float:
        value = float(setting(config, name, default=1.0, kind=float))
        if not value > 0:
            raise InputError(f"config.json: {name!r} is {value!r}, expected a positive number")
        return value

    fields = llama_fields(config, names) | {
        "attention_scale": factor("attention_multiplier"),
        "input_scale": factor("embedding_multiplier"),
        "residual_scale": factor("residual_multiplier"),
        "logit_scale": 1.0 / factor("logits_scaling"),
    }
    return DecoderConfig(**fields)


LLAMA = llama_family("llama", _llama)
MISTRAL = llama_family("mistral", _mistral)
GRANITE = llama_family("granite", _granite)
