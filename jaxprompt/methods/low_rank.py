"""Low-rank prompt tuning (Guo et al. 2024, arXiv:2406.19486): a soft prompt that is a product of two thin matrices."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning


class LowRankOptions(options.Options):
    name: Literal["low_rank"] = Field("low_rank", description="soft tokens of low rank, as many as the template has")
    rank: PositiveInt = Field(4, description="of the soft prompt; the paper finds 2 to 5 enough for 20 tokens")
    init: Init = Field(Init(), description="where the prompt starts: at the nearest of this rank")


@dataclass(frozen=True)
class LowRankPrompt:
    """Learns `{"prompt": {"u": [prompt, rank], "v": [rank, embed]}}`; the soft prompt is `u @ v` (the paper's LoPT-1).

    The paper does not say how it starts. Here the start of a soft prompt is cut to the rank by its singular values,
    whose roots both factors share, so that neither outgrows the other.
    """

    name: ClassVar[str] = "low_rank"
    Options: ClassVar = LowRankOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "two thin matrices (folded into rows when saved)"
    length: int
    rank: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: LowRankOptions, soft_length: int, backbone) -> "LowRankPrompt":
        most = min(soft_length, backbone.soft_size)
        if options.rank > most:
            raise InputError(
                f"method.rank {options.rank} is more than {soft_length} soft tokens of {backbone.soft_size} numbers "
                f"have: lower it to {most} or less, or add soft tokens"
            )
        return cls(soft_length, options.rank, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        u, scale, v = jnp.linalg.svd(soft_rows(self.start_from, key, self.length, start), full_matrices=False)
        root = jnp.sqrt(scale[: self.rank])
        return {"prompt": {"u": u[:, : self.rank] * root, "v": root[:, None] * v[: self.rank]}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(soft=trainable["prompt"]["u"] @ trainable["prompt"]["v"])
