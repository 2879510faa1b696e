"""Soft prompt tuning (Lester et al. 2021, arXiv:2104.08691): the rows of a small embedding table are learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning


class SoftOptions(options.Options):
    name: Literal["soft"] = Field("soft", description="soft tokens, as many as the template has")
    init: Init = Field(Init(), description="where the prompt starts")


@dataclass(frozen=True)
class SoftPrompt:
    """Learns `{"prompt": {"soft": [prompt, embed]}}`; the template says where the rows stand.

    Attributes:
      length: rows of the table, the sum of the template's soft slots.
      start_from: where they start.
    """

    name: ClassVar[str] = "soft"
    Options: ClassVar = SoftOptions
    fills_slots: ClassVar[bool] = True
    length: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: SoftOptions, soft_length: int, backbone) -> "SoftPrompt":
        return cls(soft_length, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return {"prompt": {"soft": soft_rows(self.start_from, key, self.length, start)}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(soft=trainable["prompt"]["soft"])
