"""Gemma 1, 2 and 3, text (arXiv:2403.08295, arXiv:2408.00118, arXiv:2503.19786)."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import optional, refuse, setting
from jaxprompt.models.families.llama import llama_family, llama_fields, of_whole_heads, window_fields, without_rope
from jaxprompt.models.rotary import rotary_from

_SANDWICH = (
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "attention_post_norm"),
    ("pre_feedforward_layernorm", "mlp_norm"),
    ("post_feedforward_layernorm", "mlp_post_norm"),
)


def _fields(config: Mapping[str, Any], names: Set[str], act: str, **defaults: Any) -> dict[str, Any]:
    """What the three have in common; `act` is what config.json calls the activation."""
    refuse(config, use_bidirectional_attention=False)
    fields = llama_fields(
        config,
        names,
        head_dim=256,
        activation=(act, "gelu_pytorch_tanh"),
        tie_word_embeddings=True,
        **defaults,
    )
    return fields | {"norm_offset": True, "embed_scale": fields["hidden_size"] ** 0.5}


def _gemma(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    sizes = {"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16}
    if config.get("hidden_act") == "gelu":  # The first releases name one activation and mean another.
        config = {**config, "hidden_act": "gelu_pytorch_tanh"}
    return DecoderConfig(
        **_fields(config, names, "hidden_act", vocab_size=256000, max_position_embeddings=8192, **sizes)
    )


def _cap(config: Mapping[str, Any], name: str, default: float | None) -> float | None:
    cap = optional(config, name, default, float)
    if cap is not None and not cap > 0:
        raise InputError(f"config.json: {name!r} is {cap!r}, expected a positive number, or null for none")
    return None if cap is None else float(cap)


def _gemma23(config: Mapping[str, Any], names: Set[str], caps: tuple[float | None, float | None], **defaults: Any):
    """The fields that Gemma 2 and 3 have in common; `caps` are the usual ones of attention and vocabulary logits."""
    sizes = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}
    fields = _fields(config, names, "hidden_activation", num_key_value_heads=4, **sizes, **defaults)
    scalar = setting(config, "query_pre_attn_scalar", default=256, kind=float)
    if not scalar > 0:
        raise InputError(f"config.json: query_pre_attn_scalar is {scalar!r}, expected a positive number")
    return fields | {
        "residual": "sandwich",
        "attention_scale": scalar**-0.5,
        "attention_softcap": _cap(config, "attn_logit_softcapping", caps[0]),
        "logit_softcap": _cap(config, "final_logit_softcapping", caps[1]),
    }


def _gemma2(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = _gemma23(config, names, (50.0, 30.0), vocab_size=256000, max_position_embeddings=8192)
    layers = fields["num_layers"]
    local = [layer % 2 == 0 for layer in range(layers)]
    return DecoderConfig(**fields, **window_fields(config, layers, optional(config, "sliding_window", 4096), local))


def _gemma3(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    fields = _gemma23(without_rope(config), names, (None, None), vocab_size=262208, max_position_embeddings=131072)
    layers, head_dim, positions = fields["num_layers"], fields["head_dim"], fields["max_positions"]
    every = setting(config, "sliding_window_pattern", "_sliding_window_pattern", default=6)
    local = [(layer + 1) % every != 0 for layer in range(layers)]
    windows = window_fields(config, layers, optional(config, "sliding_window", 4096), local)
    # transformers reads the attention's cap and never applies it.
    fields["attention_softcap"] = None
    both = setting(config, "rope_parameters", default={}, kind=dict)
    scaling = setting(config, "rope_scaling", default={}, kind=dict)
    everywhere = {
        "rope_theta": setting(config, "rope_theta", default=1e6, kind=float),
        **(both.get("full_attention") or {}),
        **scaling,
    }
    near = {
        "rope_theta": setting(config, "rope_local_base_freq", default=1e4, kind=float),
        **(both.get("sliding_attention") or {}),
    }
    fields |= {
        "qk_norm": "head",
        "rotary": rotary_from(of_whole_heads(config, everywhere), head_dim, positions),
        "local_rotary": rotary_from(of_whole_heads(config, near), head_dim, positions),
    }
    return DecoderConfig(**fields, **windows)


GEMMA = llama_family("gemma", _gemma)
GEMMA2 = llama_family("gemma2", _gemma2, *_SANDWICH)
GEMMA3 = llama_family("gemma3_text", _gemma3, *_SANDWICH)
