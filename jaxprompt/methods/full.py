"""Full fine-tuning: the baseline of all other methods."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from jaxprompt import options
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.methods.shifts import Shifts
from jaxprompt.models.adapted import layer_weights, learnable


class FullOptions(options.Options):
    name: Literal["full"] = Field("full", description="all parameters of the model")
    only: list[str] | None = Field(
        None,
        min_length=1,
        description="those alone with such a name, as word, layers, attention, q, final_norm or bias; unset: all",
    )


@dataclass(frozen=True)
class Full(Shifts):
    """Learns what is added to every parameter, in float32 whatever their type.

    As AdamW on the parameters themselves, but that weight decay pulls towards what they were (Li et al. 2018,
    arXiv:1802.01483). Every device holds all that is learned, its gradient and the optimizer's state.
    """

    name: ClassVar[str] = "full"
    Options: ClassVar = FullOptions
    learns: ClassVar[str] = "what is added to each parameter: as much as the model"

    @classmethod
    def build(cls, options: FullOptions, soft_length: int, backbone) -> "Full":
        plain = learnable(backbone.params)
        paths = sorted({*plain, *layer_weights(backbone.params)})
        known = sorted({part for path in paths for part in path.split("/")})
        for name in options.only or ():
            if name not in known:
                raise InputError(f"method.only has {name!r}, which this model has not{did_you_mean(name, known)}")
        chosen = [path for path in paths if options.only is None or set(path.split("/")) & set(options.only)]
        for path in chosen:
            if path not in plain:
                raise InputError(
                    f"method.name 'full' learns {path!r}, which quantize keeps in few bits: leave quantize out, or choose lora"
                )
        return cls({path: plain[path] for path in chosen})
