"""Methods: how what is learned becomes what the backbone consumes. One small file each, and a line in `METHODS`."""

from typing import Any

from jaxprompt.methods.base import FROZEN, Method, Start, fold
from jaxprompt.methods.ia3 import Ia3
from jaxprompt.methods.listing import listing
from jaxprompt.methods.lora import Lora
from jaxprompt.methods.low_rank import LowRankPrompt
from jaxprompt.methods.none import NoPrompt
from jaxprompt.methods.p_tuning import PTuning
from jaxprompt.methods.prefix import PrefixTuning
from jaxprompt.methods.projected_prefix import ProjectedPrefix
from jaxprompt.methods.residual import ResidualPrompt
from jaxprompt.methods.soft import SoftPrompt
from jaxprompt.methods.superposition import Superposition
from jaxprompt.options import Options

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        SoftPrompt,
        PrefixTuning,
        LowRankPrompt,
        PTuning,
        ResidualPrompt,
        Superposition,
        ProjectedPrefix,
        Lora,
        Ia3,
        NoPrompt,
    )
}


def make_method(options: Options, soft_length: int, backbone: Any) -> Method:
    """Returns the method that the `method` section of a config names, for a template with `soft_length` soft rows."""
    return METHODS[options.name].build(options, soft_length, backbone)


__all__ = ["FROZEN", "METHODS", "Method", "Start", "fold", "listing", "make_method"]
