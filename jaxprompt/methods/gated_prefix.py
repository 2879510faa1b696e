"""LLaMA-Adapter (Zhang et al. 2023, arXiv:2303.16199): rows that layers attend to apart, through a gate that starts at 0."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Start
from jaxprompt.models.fits import attentions
from jaxprompt.types import Conditioning, Gated


class GatedPrefixOptions(options.Options):
    name: Literal["gated_prefix"] = Field(
        "gated_prefix", description="rows that layers attend to apart, through a gate that starts at 0"
    )
    length: PositiveInt = Field(10, description="rows per layer; 10 in the paper")
    layers: PositiveInt | None = Field(
        None, description="the last so many layers have them, 30 of LLaMA's 32 in the paper; unset: all"
    )
    gate: Literal["head", "layer"] = Field(
        "head", description="one per head, through a tanh (the authors' code), or one per layer as it is (PEFT)"
    )


@dataclass(frozen=True)
class GatedPrefix:
    """Learns `{"prompt": {path: {"rows": [layers, prefix, embed], "gate": [layers, heads] or [layers]}}}`, by attention.

    A layer's own projections make keys and values of its rows (no norm before them, no rotary on them). Attention to
    these, by a softmax of their own and times the gate, is added to the ordinary one before the output projection: with
    gates of 0 the model is as it was. (PEFT's GPT-2 leaves that projection out; its Llama has it, as the paper.) Rows
    start from N(0, 1), as in the authors' code and PEFT. Of an encoder-decoder both sides have them.
    """

    name: ClassVar[str] = "gated_prefix"
    Options: ClassVar = GatedPrefixOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "rows of the hidden states' width for each layer, and a gate for each of its heads"
    length: int
    by_head: bool
    sizes: dict[str, tuple[int, int, int]]
    positions: int = 0

    @classmethod
    def build(cls, options: GatedPrefixOptions, soft_length: int, backbone) -> "GatedPrefix":
        sizes = {}
        for path, block in attentions(backbone.config).items():
            layers = options.layers or block.num_layers
            if layers > block.num_layers:
                raise InputError(
                    f"method.layers {layers} is more than the {block.num_layers} layers of {backbone.ref!r}: lower it"
                )
            sizes[path] = layers, block.hidden_size, block.num_heads
        return cls(options.length, options.gate == "head", sizes)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        found = {}
        for k, (path, (layers, width, heads)) in zip(
            jax.random.split(key, len(self.sizes)), self.sizes.items(), strict=True
        ):
            rows = jax.random.normal(k, (layers, self.length, width))
            found[path] = {"rows": rows, "gate": jnp.zeros((layers, heads) if self.by_head else layers)}
        return {"prompt": found}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        gated = {}
        for path, part in trainable["prompt"].items():
            layers, _, heads = self.sizes[path]
            gate = jnp.tanh(part["gate"]) if self.by_head else jnp.broadcast_to(part["gate"][:, None], (layers, heads))
            gated[path] = Gated(part["rows"], gate)
        return Conditioning(gated=gated)
