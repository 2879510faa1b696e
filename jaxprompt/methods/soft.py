"""Soft prompt tuning (Lester et al. 2021, arXiv:2104.08691): the rows of a small embedding table are learned."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, NonNegativeInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.frozen import check_frozen, split_frozen, with_frozen
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning


class SoftOptions(options.Options):
    name: Literal["soft"] = Field("soft", description="soft tokens, as many as the template has")
    frozen: NonNegativeInt = Field(0, description="the first so many rows stay as they start")
    init: Init = Field(Init(), description="where the prompt starts")


@dataclass(frozen=True)
class SoftPrompt:
    """Learns `{"prompt": {"soft": [prompt, embed]}}`; the template says where the rows stand.

    Attributes:
      length: rows of the table, the sum of the template's soft slots.
      start_from: where they start.
      frozen: how many of the first stay there.
    """

    name: ClassVar[str] = "soft"
    Options: ClassVar = SoftOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "a row of the word embedding's width for each soft token"
    length: int
    start_from: Init
    frozen: int = 0
    positions: int = 0

    @classmethod
    def build(cls, options: SoftOptions, soft_length: int, backbone) -> "SoftPrompt":
        check_frozen(options.frozen, soft_length, "soft tokens")
        return cls(soft_length, options.init, options.frozen)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        return split_frozen({"soft": soft_rows(self.start_from, key, self.length, start)}, self.frozen, axis=0)

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(**with_frozen(trainable, axis=0))
