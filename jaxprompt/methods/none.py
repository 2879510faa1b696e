"""No learned prompt: a fixed hard prompt that is scored, or a head trained alone."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.types import Conditioning


class NoOptions(options.Options):
    name: Literal["none"] = Field("none", description="no prompt is learned")


@dataclass(frozen=True)
class NoPrompt:
    """Conditions the backbone on nothing: the baseline of every other method."""

    name: ClassVar[str] = "none"
    Options: ClassVar = NoOptions
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "nothing"
    positions: int = 0

    @classmethod
    def build(cls, options: NoOptions, soft_length: int, backbone) -> "NoPrompt":
        return cls()

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return {}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning()
