"""ATTEMPT (Asai et al. 2022, arXiv:2205.11961): prompts of other tasks, mixed for each example by the attention of its text."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveFloat, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import FROZEN, Start
from jaxprompt.methods.starts import Init, normal_array, soft_rows
from jaxprompt.types import Conditioning, Mixture

_SCALE = 0.02


class AttemptOptions(options.Options):
    name: Literal["attempt"] = Field(
        "attempt", description="soft tokens of other tasks, mixed with new ones for each example"
    )
    sources: list[Init] = Field(
        [], description="prompts that are mixed and not learned, such as {type: file, path: runs/mnli}, of as many rows"
    )
    bottleneck: PositiveInt = Field(
        100, description="width of the network between text and attention; 100 in the paper"
    )
    temperature: PositiveFloat | None = Field(
        None, description="by which attention is divided; unset: the width of the embeddings times e, as in the paper"
    )
    init: Init = Field(Init(), description="where the new soft tokens start")


@dataclass(frozen=True)
class Attempt:
    """Learns `{"prompt": {"soft": [prompt, embed]}, "attention": {"down", "up", "scale", "bias"}}`.

    An example's soft rows are `soft + sum_j a_j P_j`, the `P` being the sources, which are frozen, and `soft` itself;
    `a = softmax_j(max(P_j) . h / temperature)`, `h = LayerNorm(up silu(down x))`. `x` is the largest embedding, number by
    number, of what the example's fields hold, `max(P_j)` that of a prompt's rows. An example without text has `x = 0`.

    The paper's own text could not be read but for its beginning: the formula, with silu, without biases and with the norm's scale
    and bias, is that of an implementation of it, the defaults of bottleneck and temperature are from memory. The paper takes `x` of the whole input, its instruction too. Attention
    starts as N(0, 0.02) and the norm at 1: with the paper's temperature all prompts weigh about as much at first.
    """

    name: ClassVar[str] = "attempt"
    Options: ClassVar = AttemptOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "soft tokens, and how an example's text weighs them and those of other tasks"
    reads_text: ClassVar[bool] = True
    length: int
    width: int
    bottleneck: int
    temperature: float
    sources: tuple[Init, ...]
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: AttemptOptions, soft_length: int, backbone) -> "Attempt":
        if not options.sources:
            raise InputError(
                "method.sources is empty: name the prompts to mix, such as [{type: file, path: runs/mnli}]"
            )
        width = backbone.soft_size
        temperature = width * math.e if options.temperature is None else options.temperature
        return cls(soft_length, width, options.bottleneck, temperature, tuple(options.sources), options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        keys = jax.random.split(jax.random.fold_in(key, 1), 2 + len(self.sources))
        attention = {
            "down": normal_array(keys[0], (self.bottleneck, self.width), _SCALE),
            "up": normal_array(keys[1], (self.width, self.bottleneck), _SCALE),
            "scale": jnp.ones(self.width),
            "bias": jnp.zeros(self.width),
        }
        sources = [
            soft_rows(source, own, self.length, start) for source, own in zip(self.sources, keys[2:], strict=True)
        ]
        soft = soft_rows(self.start_from, key, self.length, start)
        return {"prompt": {"soft": soft}, "attention": attention, FROZEN: {"sources": jnp.stack(sources)}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        soft, sources = trainable["prompt"]["soft"], jax.lax.stop_gradient(trainable[FROZEN]["sources"])
        prompts = jnp.concatenate([sources, soft[None]])
        temperature = jnp.asarray([self.temperature], jnp.float32)
        return Conditioning(
            soft=soft, generator=Mixture(prompts=prompts, temperature=temperature, **trainable["attention"])
        )
