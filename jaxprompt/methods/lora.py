"""LoRA (Hu et al. 2022, arXiv:2106.09685): a path of low rank beside frozen products."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveFloat, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.models.adapted import targets
from jaxprompt.types import Conditioning, Delta


class LoraOptions(options.Options):
    name: Literal["lora"] = Field("lora", description="low-rank paths beside frozen products of the layers")
    rank: PositiveInt = Field(8, description="of each path")
    alpha: PositiveFloat = Field(16.0, description="a path is multiplied by alpha / rank")
    rank_stabilized: bool = Field(False, description="by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023)")
    targets: list[str] = Field(["q", "v"], min_length=1, description="of q, k, v, out, up, gate, down")


@dataclass(frozen=True)
class Lora:
    """Learns `{"deltas": {path: {"a": [layers, rank, in], "b": [layers, out, rank]}}}`; `b` starts at 0.

    A product `x W^T` becomes `x W^T + scale * (x a^T) b^T`: no gradient of a weight's size exists. `a` starts as in PEFT,
    uniform within 1 / sqrt(in).
    """

    name: ClassVar[str] = "lora"
    Options: ClassVar = LoraOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "two thin matrices for each product that is changed"
    rank: int
    scale: float
    weights: dict[str, tuple[int, int, int]]
    positions: int = 0

    @classmethod
    def build(cls, options: LoraOptions, soft_length: int, backbone) -> "Lora":
        scale = options.alpha / (options.rank**0.5 if options.rank_stabilized else options.rank)
        return cls(options.rank, scale, targets(backbone.params, options.targets))

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        found = {}
        for (path, (layers, outputs, inputs)), k in zip(
            self.weights.items(), jax.random.split(key, len(self.weights)), strict=True
        ):
            a = jax.random.uniform(k, (layers, self.rank, inputs), minval=-(inputs**-0.5), maxval=inputs**-0.5)
            found[path] = {"a": a, "b": jnp.zeros((layers, outputs, self.rank))}
        return {"deltas": found}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(
            deltas={path: Delta(a=part["a"], b=self.scale * part["b"]) for path, part in trainable["deltas"].items()}
        )
