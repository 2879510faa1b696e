"""The norms' weights and biases alone (LayerNorm tuning: Qi et al. 2022, arXiv:2211.08682; Zhao et al. 2023, arXiv:2312.11420)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.shifts import Shifts
from jaxprompt.models.adapted import norms


class NormsOptions(options.Options):
    name: Literal["norms"] = Field("norms", description="the norms' weights and biases")


@dataclass(frozen=True)
class Norms(Shifts):
    """Learns what is added to the weights and biases of all norms, of queries and keys too."""

    name: ClassVar[str] = "norms"
    Options: ClassVar = NormsOptions
    learns: ClassVar[str] = "what is added to each norm's weight and bias"

    @classmethod
    def build(cls, options: NormsOptions, soft_length: int, backbone) -> "Norms":
        found = norms(backbone.params)
        if not found:
            raise InputError(
                f"method.name 'norms' learns the norms' weights, of which {backbone.ref!r} has none: choose lora or ia3"
            )
        return cls(found)
