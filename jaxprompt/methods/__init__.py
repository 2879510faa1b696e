"""Methods: how what is learned becomes what the backbone consumes. One small file each, and a line in `METHODS`."""

from collections.abc import Mapping
from typing import Any

from jaxprompt.methods.adaptive_prefix import AdaptivePrefix
from jaxprompt.methods.attempt import Attempt
from jaxprompt.methods.base import FROZEN, Method, Start, fold, reads_text
from jaxprompt.methods.bitfit import BitFit
from jaxprompt.methods.cpt import Cpt
from jaxprompt.methods.dept import Dept
from jaxprompt.methods.full import Full
from jaxprompt.methods.gated_prefix import GatedPrefix
from jaxprompt.methods.ia3 import Ia3
from jaxprompt.methods.idpg import Idpg
from jaxprompt.methods.late import LatePrompt
from jaxprompt.methods.listing import listing
from jaxprompt.methods.lora import Lora
from jaxprompt.methods.low_rank import LowRankPrompt
from jaxprompt.methods.multitask import Multitask
from jaxprompt.methods.none import NoPrompt
from jaxprompt.methods.norms import Norms
from jaxprompt.methods.p_tuning import PTuning
from jaxprompt.methods.prefix import PrefixTuning
from jaxprompt.methods.projected_prefix import ProjectedPrefix
from jaxprompt.methods.residual import ResidualPrompt
from jaxprompt.methods.soft import SoftPrompt
from jaxprompt.methods.superposition import Superposition
from jaxprompt.methods.together import parts_of, together_of
from jaxprompt.options import Options

_ALONE: tuple[type[Method], ...] = (
    SoftPrompt,
    PrefixTuning,
    LowRankPrompt,
    PTuning,
    Multitask,
    ResidualPrompt,
    Superposition,
    LatePrompt,
    ProjectedPrefix,
    AdaptivePrefix,
    GatedPrefix,
    Dept,
    Idpg,
    Attempt,
    Cpt,
    Lora,
    Ia3,
    BitFit,
    Norms,
    Full,
    NoPrompt,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in (*_ALONE, together_of(_ALONE))}


def fills_slots(chosen: Any) -> bool:
    """Whether the `method` section of a config, validated or not, fills the template's soft slots."""
    names = [
        part.get("name") if isinstance(part, Mapping) else getattr(part, "name", None) for part in parts_of(chosen)
    ]
    return any(METHODS[name].fills_slots for name in names if name in METHODS)


def make_method(options: Options, soft_length: int, backbone: Any) -> Method:
    """Returns the method that the `method` section of a config names, for a template with `soft_length` soft rows."""
    return METHODS[options.name].build(options, soft_length, backbone)


__all__ = [
    "FROZEN",
    "METHODS",
    "Method",
    "Start",
    "fills_slots",
    "fold",
    "listing",
    "make_method",
    "parts_of",
    "reads_text",
]
