"""Late prompt tuning (Liu et al. 2022, arXiv:2210.11292): soft tokens that enter at a layer in the middle."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.models.fits import check_late
from jaxprompt.types import Conditioning


class LateOptions(options.Options):
    name: Literal["late"] = Field("late", description="soft tokens that enter at a layer in the middle")
    layer: PositiveInt | None = Field(
        None, description="so many layers know nothing of them and get no backward pass; unset: half of all"
    )
    init: Init = Field(Init(), description="where the prompt starts")


@dataclass(frozen=True)
class LatePrompt:
    """Learns `{"prompt": {"soft": [prompt, embed]}}`, the hidden states of the slots ahead of a layer.

    Below it no token sees the slots, and nothing is kept for a backward pass. The paper's rows come out of a small network
    that reads the example (its NPG and PPG); these are its plain ones, the same for every example (`generator_type` None in
    the authors' code, github.com/xyltt/LPT). There the rows stand in front of the text, whose positions they leave as they
    were; here they stand in the template's slots, which count as positions like those of all soft tokens. In an
    encoder-decoder the layer is counted on the side of the slots.
    """

    name: ClassVar[str] = "late"
    Options: ClassVar = LateOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "a row of the hidden states' width for each soft token"
    length: int
    layer: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: LateOptions, soft_length: int, backbone) -> "LatePrompt":
        layer = options.layer or max(backbone.num_layers // 2, 1)
        check_late(layer, backbone.config, backbone.ref)
        return cls(soft_length, layer, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return {"prompt": {"soft": soft_rows(self.start_from, key, self.length, start)}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(soft=trainable["prompt"]["soft"], soft_layer=self.layer)
