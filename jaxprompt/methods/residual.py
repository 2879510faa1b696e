"""Residual prompt tuning (Razdaibiedina et al. 2023, arXiv:2305.03937): soft tokens plus what a small network makes of them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.dense import apply_dense, dense
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning

_EPSILON = 1e-5


class ResidualOptions(options.Options):
    name: Literal["residual"] = Field("residual", description="soft tokens plus a small network of them")
    bottleneck: PositiveInt = Field(800, description="width of the network; 800 in the paper")
    layer_norm: bool = Field(
        False, description="whether a layer norm is behind the network, whose rows then have size 1"
    )
    init: Init = Field(Init(), description="where the soft tokens start")


@dataclass(frozen=True)
class ResidualPrompt:
    """Learns `{"prompt": {"soft": [prompt, embed]}, "encoder": {"down", "up", "norm"}}`.

    The soft prompt is `soft + [norm](up(relu(down(soft))))`, row by row with one network for all, as in the authors' code
    (github.com/arazd/ResidualPrompts: ResMLP).
    """

    name: ClassVar[str] = "residual"
    Options: ClassVar = ResidualOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "soft tokens and a network that adds to them (folded into rows when saved)"
    length: int
    width: int
    bottleneck: int
    layer_norm: bool
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: ResidualOptions, soft_length: int, backbone) -> "ResidualPrompt":
        return cls(soft_length, backbone.soft_size, options.bottleneck, options.layer_norm, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        down, up = jax.random.split(jax.random.fold_in(key, 1))
        network = {"down": dense(down, self.width, self.bottleneck), "up": dense(up, self.bottleneck, self.width)}
        if self.layer_norm:
            network["norm"] = {"scale": jnp.ones(self.width), "bias": jnp.zeros(self.width)}
        return {"prompt": {"soft": soft_rows(self.start_from, key, self.length, start)}, "encoder": network}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        soft, network = trainable["prompt"]["soft"], trainable["encoder"]
        change = apply_dense(network["up"], jax.nn.relu(apply_dense(network["down"], soft)))
        if self.layer_norm:
            change = jax.nn.standardize(change, axis=-1, epsilon=_EPSILON)
            change = change * network["norm"]["scale"] + network["norm"]["bias"]
        return Conditioning(soft=soft + change)
