"""Multitask prompt tuning (Wang et al. 2023, arXiv:2303.02861): one prompt for all tasks, times a low-rank one of each."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning


class MultitaskOptions(options.Options):
    name: Literal["multitask"] = Field(
        "multitask", description="soft tokens that tasks share, times a low-rank part of each"
    )
    rank: PositiveInt = Field(1, description="of each task's part; 1 in the paper")
    init: Init = Field(Init(), description="where the shared prompt starts")


@dataclass(frozen=True)
class Multitask:
    """Learns `{"prompt": {"soft": [prompt, embed]}, "task": {"u": [prompt, rank], "v": [rank, embed]}}`.

    A task's prompt is `soft * (u @ v)`, product by product. Of several `tasks` all share `prompt`, and each has `task` of
    its own; `optimizer.rates` gives either a learning rate. As in PEFT (MultitaskPromptEmbedding); but where that draws u
    and v from N(0, 0.02), with which every prompt starts near 0, here `u @ v` starts at 1, so that every task's prompt
    starts as the shared one. The paper's distillation from prompts that tasks learned alone is not part of it.
    """

    name: ClassVar[str] = "multitask"
    Options: ClassVar = MultitaskOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "soft tokens for all tasks, and two thin matrices for each (folded into rows when saved)"
    shared: ClassVar[tuple[str, ...]] = ("prompt",)
    length: int
    width: int
    rank: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: MultitaskOptions, soft_length: int, backbone) -> "Multitask":
        return cls(soft_length, backbone.soft_size, options.rank, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        # Of what is multiplied, all but the first column and row start at nothing.
        u = 0.02 * jax.random.normal(jax.random.fold_in(key, 1), (self.length, self.rank))
        v = jnp.zeros((self.rank, self.width))
        task = {"u": u.at[:, 0].set(1.0), "v": v.at[0].set(1.0)}
        return {"prompt": {"soft": soft_rows(self.start_from, key, self.length, start)}, "task": task}

    def common(self, shared: dict[str, dict]) -> Conditioning:
        """The prompt of a task that has learned nothing of its own."""
        return Conditioning(soft=shared["prompt"]["soft"])

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        task = trainable["task"]
        return Conditioning(soft=trainable["prompt"]["soft"] * (task["u"] @ task["v"]))
