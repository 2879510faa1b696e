"""(IA)3 (Liu et al. 2022, arXiv:2205.05638): factors on keys, on values and inside the MLP."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.models.adapted import targets
from jaxprompt.types import Conditioning, Delta


class Ia3Options(options.Options):
    name: Literal["ia3"] = Field("ia3", description="factors on outputs and inputs of the layers' products")
    outputs: list[str] = Field(["k", "v"], description="products whose outputs are multiplied")
    inputs: list[str] = Field(["down"], description="products whose inputs are multiplied")


@dataclass(frozen=True)
class Ia3:
    """Learns `{"deltas": {path: {"factor": [layers, out]} or {"in_factor": [layers, in]}}}`, which start at 1."""

    name: ClassVar[str] = "ia3"
    Options: ClassVar = Ia3Options
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "a factor for each output, or input, of the products that are changed"
    sizes: dict[str, tuple[str, int, int]]
    positions: int = 0

    @classmethod
    def build(cls, options: Ia3Options, soft_length: int, backbone) -> "Ia3":
        outputs = targets(backbone.params, options.outputs)
        inputs = targets(backbone.params, options.inputs)
        sizes = {path: ("factor", layers, out) for path, (layers, out, _) in outputs.items()}
        sizes |= {path: ("in_factor", layers, width) for path, (layers, _, width) in inputs.items()}
        return cls(sizes)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return {"deltas": {path: {kind: jnp.ones((layers, size))} for path, (kind, layers, size) in self.sizes.items()}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(deltas={path: Delta(**part) for path, part in trainable["deltas"].items()})
