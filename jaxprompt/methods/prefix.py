"""Prefix tuning (Li and Liang 2021; P-tuning v2, Liu et al. 2022): keys and values of every layer are learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, prefix_arrays
from jaxprompt.types import Conditioning, Prefix


class PrefixOptions(options.Options):
    name: Literal["prefix"] = Field("prefix", description="keys and values of every layer")
    length: PositiveInt = Field(16, description="keys per layer")
    init: Init = Field(Init(), description="where the prompt starts")


@dataclass(frozen=True)
class PrefixTuning:
    """Learns `{"prompt": {"keys", "values"}}`, both `[layers, prefix, kv_heads, head_dim]`, with no reparametrisation.

    In a decoder the text starts at position `length`, as in PEFT. In an encoder the prefix takes no position, so that
    a prefix with no effect leaves the model as it was. An encoder-decoder gets one on either side: beside the
    decoder's it learns `{"source_keys", "source_values"}`.

    Attributes:
      length: number of keys per layer.
      positions: where the text starts: `length`, or 0 in an encoder.
      start_from: where keys and values start.
    """

    name: ClassVar[str] = "prefix"
    Options: ClassVar = PrefixOptions
    fills_slots: ClassVar[bool] = False
    length: int
    positions: int
    start_from: Init

    @classmethod
    def build(cls, options: PrefixOptions, soft_length: int, backbone) -> "PrefixTuning":
        if options.length >= backbone.max_positions:
            raise InputError(
                f"method.length {options.length} leaves no room in the {backbone.max_positions} positions of "
                f"{backbone.ref!r}: lower it"
            )
        decodes = backbone.causal or backbone.seq2seq
        return cls(options.length, options.length if decodes else 0, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        sides = {"": start.backbone.prefix_shape}
        if start.backbone.seq2seq:
            sides["source_"] = start.backbone.source_prefix_shape
        learned = {}
        for number, (side, (layers, heads, dim)) in enumerate(sides.items()):
            here = jax.random.fold_in(key, number) if number else key
            learned |= prefix_arrays(self.start_from, here, side, (layers, self.length, heads, dim), start)
        return {"prompt": learned}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        learned = trainable["prompt"]
        source = None
        if "source_keys" in learned:
            source = Prefix(learned["source_keys"], learned["source_values"], length=0)
        return Conditioning(prefix=Prefix(learned["keys"], learned["values"], self.positions), source_prefix=source)
