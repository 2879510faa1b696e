"""Prefix tuning (Li and Liang 2021; P-tuning v2, Liu et al. 2022): keys and values of every layer are learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, NonNegativeInt, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Start
from jaxprompt.methods.frozen import check_frozen, split_frozen, with_frozen
from jaxprompt.methods.starts import Init, prefix_arrays
from jaxprompt.types import Conditioning, Prefix


class PrefixOptions(options.Options):
    name: Literal["prefix"] = Field("prefix", description="keys and values of every layer")
    length: PositiveInt = Field(16, description="keys per layer")
    frozen: NonNegativeInt = Field(
        0, description="the first so many keys stay as they start: 1 keeps an attention sink"
    )
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
      frozen: how many of the first stay there.
    """

    name: ClassVar[str] = "prefix"
    Options: ClassVar = PrefixOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "keys and values of every layer"
    length: int
    positions: int
    start_from: Init
    frozen: int = 0

    @classmethod
    def build(cls, options: PrefixOptions, soft_length: int, backbone) -> "PrefixTuning":
        check_frozen(options.frozen, options.length, "keys (method.length)")
        return cls(options.length, prefix_positions(options.length, backbone), options.init, options.frozen)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return split_frozen(prefix_start(self.start_from, key, self.length, start), self.frozen, axis=1)

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return prefix_conditioning(with_frozen(trainable, axis=1), self.positions)


def prefix_positions(length: int, backbone) -> int:
    """Positions that a prefix takes from the text. Raises InputError where it leaves none."""
    if length >= backbone.max_positions:
        raise InputError(
            f"method.length {length} leaves no room in the {backbone.max_positions} positions of {backbone.ref!r}: lower it"
        )
    return length if backbone.causal or backbone.seq2seq else 0


def prefix_sides(backbone) -> dict[str, tuple[int, int, int]]:
    """Layers, heads and head size of a prefix, by what its names begin with: "", and "source_" of an encoder-decoder."""
    source = {"source_": backbone.source_prefix_shape} if backbone.seq2seq else {}
    return {"": backbone.prefix_shape, **source}


def prefix_start(start_from: Init, key: jax.Array, length: int, start: Start) -> dict[str, jax.Array]:
    """Keys and values of every side, where they start."""
    found = {}
    for number, (side, (layers, heads, dim)) in enumerate(prefix_sides(start.backbone).items()):
        here = jax.random.fold_in(key, number) if number else key
        found |= prefix_arrays(start_from, here, side, (layers, length, heads, dim), start)
    return found


def prefix_conditioning(arrays: dict[str, jax.Array], positions: int) -> Conditioning:
    """A prefix of `keys` and `values`, and the encoder's of `source_keys` and `source_values` if they are there."""
    source = None
    if "source_keys" in arrays:
        source = Prefix(arrays["source_keys"], arrays["source_values"], length=0)
    return Conditioning(prefix=Prefix(arrays["keys"], arrays["values"], positions), source_prefix=source)
