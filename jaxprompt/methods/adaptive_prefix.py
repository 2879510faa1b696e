"""Adaptive prefix tuning (APT, Zhang et al. 2023, arXiv:2305.15212): a prefix whose keys and layers are gated."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.prefix import prefix_conditioning, prefix_positions, prefix_sides, prefix_start
from jaxprompt.methods.starts import Init
from jaxprompt.types import Conditioning


class AdaptivePrefixOptions(options.Options):
    name: Literal["adaptive_prefix"] = Field(
        "adaptive_prefix", description="keys and values of every layer, through a gate per key and one per layer"
    )
    length: PositiveInt = Field(16, description="keys per layer")
    init: Init = Field(Init(), description="where the prompt starts")


@dataclass(frozen=True)
class AdaptivePrefix:
    """Learns `{"prompt": {"keys", "values"}, "gates": {"token": [layers, prefix], "layer": [layers]}}`.

    Key and value `j` of layer `i` are `layer[i] * sigmoid(token[i, j])` times those of `prompt`, which are
    `[layers, prefix, kv_heads, head_dim]`. The gates of keys start at 1/2 and those of layers at 2, so that the prefix starts
    where prefix tuning's does. Of an encoder-decoder either side has its own; the encoder's names begin with `source_`.

    Source: what the paper's introduction says of its two gates, one that scores each token of the prefix and one that weighs
    prefix and text in each layer. Its formula could not be read. There the tokens' gates depend on each example's hidden
    states of the layer below; here they do not, so that they fold into the prefix and nothing is to be computed of them.
    """

    name: ClassVar[str] = "adaptive_prefix"
    Options: ClassVar = AdaptivePrefixOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = (
        "keys and values of every layer, a gate for each key and one for each layer (folded when saved)"
    )
    length: int
    positions: int
    start_from: Init

    @classmethod
    def build(cls, options: AdaptivePrefixOptions, soft_length: int, backbone) -> "AdaptivePrefix":
        return cls(options.length, prefix_positions(options.length, backbone), options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        gates = {}
        for side, (layers, _, _) in prefix_sides(start.backbone).items():
            gates |= {f"{side}token": jnp.zeros((layers, self.length)), f"{side}layer": jnp.full(layers, 2.0)}
        return {"prompt": prefix_start(self.start_from, key, self.length, start), "gates": gates}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        gates, found = trainable["gates"], {}
        for name, array in trainable["prompt"].items():
            side = "source_" if name.startswith("source_") else ""
            gate = gates[f"{side}layer"][:, None] * jax.nn.sigmoid(gates[f"{side}token"])
            found[name] = array * gate[..., None, None]
        return prefix_conditioning(found, self.positions)
