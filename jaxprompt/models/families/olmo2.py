"""OLMo 2 (OLMo team 2025, arXiv:2501.00656): norms behind attention and MLP, and of whole queries and keys."""

from collections.abc import Mapping, Set
from typing import Any

from jaxprompt.models.decoder import DecoderConfig
from jaxprompt.models.families.base import refuse
from jaxprompt.models.families.llama import llama_family, llama_fields


def _translate(config: Mapping[str, Any], names: Set[str]) -> DecoderConfig:
    refuse(config, clip_qkv=None)
    fields = llama_fields(config, names, vocab_size=50304, rms_norm_eps=1e-5)
    return DecoderConfig(**fields | {"residual": "output", "qk_norm": "all", "mlp_bias": False})


OLMO2 = llama_family(
    "olmo2",
    _translate,
    ("post_attention_layernorm", "attention_post_norm"),
    ("post_feedforward_layernorm", "mlp_post_norm"),
)
