"""The supported Hugging Face families."""

from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models.families.bart import BART, MBART
from jaxprompt.models.families.base import Family, Weight, shown
from jaxprompt.models.families.bert import BERT, ELECTRA
from jaxprompt.models.families.gemma import GEMMA, GEMMA2, GEMMA3
from jaxprompt.models.families.gpt2 import GPT2, GPT_NEO, GPTJ
from jaxprompt.models.families.gpt_neox import GPT_NEOX
from jaxprompt.models.families.llama import GRANITE, LLAMA, MISTRAL
from jaxprompt.models.families.olmo2 import OLMO2
from jaxprompt.models.families.opt import OPT
from jaxprompt.models.families.phi3 import PHI3
from jaxprompt.models.families.qwen import QWEN2, QWEN3
from jaxprompt.models.families.roberta import DISTILBERT, ROBERTA, XLM_ROBERTA
from jaxprompt.models.families.t5 import MT5, T5

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(GPT2, OPT, GPT_NEO, GPTJ, GPT_NEOX),
        *(LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA, GEMMA2, GEMMA3, OLMO2, GRANITE),
        *(BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA),
        *(T5, MT5, BART, MBART),
    )
}


def family_of(model_type: Any) -> Family:
    """Returns the family of a config's `model_type`; raises InputError listing the supported ones."""
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise InputError(
            f"config.json: model_type {shown(model_type)} is not supported (supported: {', '.join(FAMILIES)})"
        )
    return family


__all__ = ["FAMILIES", "Family", "Weight", "family_of"]
