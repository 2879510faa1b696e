"""BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): the biases that the model has."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from jaxprompt import options
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.methods.shifts import Shifts
from jaxprompt.models.adapted import biases


class BitFitOptions(options.Options):
    name: Literal["bitfit"] = Field("bitfit", description="the biases that the model has")
    targets: list[str] | None = Field(
        None, min_length=1, description="whose: of q, k, v, out, up, down, attention_norm, mlp_norm; unset: all"
    )


@dataclass(frozen=True)
class BitFit(Shifts):
    """Learns what is added to biases of products and norms."""

    name: ClassVar[str] = "bitfit"
    Options: ClassVar = BitFitOptions
    learns: ClassVar[str] = "what is added to each bias"

    @classmethod
    def build(cls, options: BitFitOptions, soft_length: int, backbone) -> "BitFit":
        found = biases(backbone.params)
        if not found:
            raise InputError(
                f"method.name 'bitfit' learns biases, of which {backbone.ref!r} has none: choose norms, lora or ia3"
            )
        known = sorted({_owner(path) for path in found})
        for name in options.targets or ():
            if name not in known:
                raise InputError(
                    f"method.targets has {name!r}, of which this model has no bias{did_you_mean(name, known)}"
                )
        return cls({path: shape for path, shape in found.items() if _owner(path) in (options.targets or known)})


def _owner(path: str) -> str:
    """What has a bias, such as q of `layers/attention/q/bias`."""
    return path.removesuffix("/bias").removesuffix("_bias").rpartition("/")[2]
