"""Methods: how a trainable pytree becomes what the backbone consumes. One small file each."""

from jaxprompt.methods.base import Conditioning, Method
from jaxprompt.methods.none import NoPrompt
from jaxprompt.methods.prefix import PrefixTuning
from jaxprompt.methods.soft import SoftPrompt

__all__ = ["Conditioning", "Method", "NoPrompt", "PrefixTuning", "SoftPrompt", "make_method"]


def make_method(config, soft_length: int, backbone) -> Method:
    """Returns the method that the `method` section of a config names, for a template with `soft_length` soft rows."""
    if config.name == "soft":
        return SoftPrompt(length=soft_length, init_config=config.init)
    if config.name == "prefix":
        return PrefixTuning(
            length=config.length, encoder=not (backbone.causal or backbone.seq2seq), init_config=config.init
        )
    return NoPrompt()
