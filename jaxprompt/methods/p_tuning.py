"""P-tuning (Liu et al. 2021, arXiv:2103.10385): soft tokens that come out of a small network."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.dense import apply_dense, apply_lstm, dense, lstm
from jaxprompt.types import Conditioning


class PTuningOptions(options.Options):
    name: Literal["p_tuning"] = Field("p_tuning", description="soft tokens out of a small network")
    encoder: Literal["mlp", "lstm"] = Field(
        "mlp", description="the network: three linear layers, or two bidirectional LSTMs and two linear layers"
    )
    hidden: PositiveInt | None = Field(None, description="its width; unset: that of the word embedding")


@dataclass(frozen=True)
class PTuning:
    """Learns `{"prompt": {"embedding": [prompt, embed]}, "encoder": ...}`; the soft prompt is `encoder(embedding)`.

    The networks and their start are those of PEFT's PromptEncoder: embeddings from N(0, 1), layers as PyTorch's.
    """

    name: ClassVar[str] = "p_tuning"
    Options: ClassVar = PTuningOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "an embedding for each soft token and the network behind it (folded into rows when saved)"
    length: int
    width: int
    hidden: int
    encoder: str
    positions: int = 0

    @classmethod
    def build(cls, options: PTuningOptions, soft_length: int, backbone) -> "PTuning":
        return cls(soft_length, backbone.soft_size, options.hidden or backbone.soft_size, options.encoder)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        first, *rest = jax.random.split(key, 5)
        width, hidden = self.width, self.hidden
        if self.encoder == "mlp":
            sizes = {"first": (width, hidden), "second": (hidden, hidden), "third": (hidden, width)}
            network = {name: dense(k, *size) for (name, size), k in zip(sizes.items(), rest, strict=False)}
        else:
            network = {
                "lstm": {"first": lstm(rest[0], width, hidden), "second": lstm(rest[1], 2 * hidden, hidden)},
                "first": dense(rest[2], 2 * hidden, 2 * hidden),
                "second": dense(rest[3], 2 * hidden, width),
            }
        return {"prompt": {"embedding": jax.random.normal(first, (self.length, width))}, "encoder": network}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        x, network = trainable["prompt"]["embedding"], trainable["encoder"]
        if self.encoder == "lstm":
            x = apply_lstm(network["lstm"]["second"], apply_lstm(network["lstm"]["first"], x))
            x = apply_dense(network["second"], jax.nn.relu(apply_dense(network["first"], x)))
        else:
            x = jax.nn.relu(apply_dense(network["first"], x))
            x = apply_dense(network["third"], jax.nn.relu(apply_dense(network["second"], x)))
        return Conditioning(soft=x)
