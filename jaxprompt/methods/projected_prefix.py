"""Prefix tuning as first published (Li and Liang 2021, arXiv:2101.00190): keys and values out of a small network."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.dense import apply_dense, dense
from jaxprompt.methods.prefix import prefix_conditioning, prefix_positions, prefix_sides
from jaxprompt.types import Conditioning


class ProjectedPrefixOptions(options.Options):
    name: Literal["projected_prefix"] = Field(
        "projected_prefix", description="keys and values of every layer, out of a small network"
    )
    length: PositiveInt = Field(16, description="keys per layer")
    hidden: PositiveInt = Field(512, description="width of the network between its two linear layers")


@dataclass(frozen=True)
class ProjectedPrefix:
    """Learns `{"prompt": {"embedding": [prefix, kv_heads * head_dim]}, "encoder": {"first", "second"}}`.

    Keys and values are `second(tanh(first(embedding)))`, per row layer by layer, of each the key and the value, as PEFT's
    PrefixEncoder has it. Of an encoder-decoder either side has such a network; the encoder's names begin with `source_`.
    """

    name: ClassVar[str] = "projected_prefix"
    Options: ClassVar = ProjectedPrefixOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = (
        "an embedding for each key and the network behind it (folded into keys and values when saved)"
    )
    length: int
    positions: int
    hidden: int
    sides: dict[str, tuple[int, int, int]]

    @classmethod
    def build(cls, options: ProjectedPrefixOptions, soft_length: int, backbone) -> "ProjectedPrefix":
        return cls(options.length, prefix_positions(options.length, backbone), options.hidden, prefix_sides(backbone))

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        prompt, network = {}, {}
        for number, (side, (layers, heads, dim)) in enumerate(self.sides.items()):
            keys = jax.random.split(jax.random.fold_in(key, number), 3)
            prompt[f"{side}embedding"] = jax.random.normal(keys[0], (self.length, heads * dim))
            network[f"{side}first"] = dense(keys[1], heads * dim, self.hidden)
            network[f"{side}second"] = dense(keys[2], self.hidden, layers * 2 * heads * dim)
        return {"prompt": prompt, "encoder": network}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        prompt, network, found = trainable["prompt"], trainable["encoder"], {}
        for side, (layers, heads, dim) in self.sides.items():
            x = jnp.tanh(apply_dense(network[f"{side}first"], prompt[f"{side}embedding"]))
            rows = apply_dense(network[f"{side}second"], x).reshape(self.length, layers, 2, heads, dim)
            found[f"{side}keys"], found[f"{side}values"] = jnp.moveaxis(rows, 0, 2).swapaxes(0, 1)
        return prefix_conditioning(found, self.positions)
