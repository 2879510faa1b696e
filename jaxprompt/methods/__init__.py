"""Methods: how what is learned becomes what the backbone consumes. One small file each, and a line in `METHODS`."""

from typing import Any

from jaxprompt.methods.base import Method, Start, fold
from jaxprompt.methods.low_rank import LowRankPrompt
from jaxprompt.methods.none import NoPrompt
from jaxprompt.methods.prefix import PrefixTuning
from jaxprompt.methods.soft import SoftPrompt
from jaxprompt.options import Options

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (SoftPrompt, PrefixTuning, LowRankPrompt, NoPrompt)
}


def make_method(options: Options, soft_length: int, backbone: Any) -> Method:
    """Returns the method that the `method` section of a config names, for a template with `soft_length` soft rows."""
    return METHODS[options.name].build(options, soft_length, backbone)


__all__ = ["METHODS", "Method", "Start", "fold", "make_method"]
