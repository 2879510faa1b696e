"""What is added to parameters of the model."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxprompt.methods.base import Start
from jaxprompt.types import Conditioning, Delta


@dataclass(frozen=True)
class Shifts:
    """Learns `{"deltas": {path: {"shift": array of the parameter's shape}}}`, which starts at 0.

    The model's own parameters stay as they are, in their type; weight decay pulls towards them, not towards 0.

    Attributes:
      shapes: of the parameters that are learned, by path; those of the layers are stacked.
    """

    fills_slots: ClassVar[bool] = False
    shapes: dict[str, tuple[int, ...]]
    positions: int = 0

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return {"deltas": {path: {"shift": jnp.zeros(shape)} for path, shape in self.shapes.items()}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(deltas={path: Delta(**part) for path, part in trainable["deltas"].items()})
