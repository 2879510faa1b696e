"""DePT (Shi and Lipani 2024, arXiv:2309.05173): a short soft prompt, and a change of low rank of the input text's embeddings."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveFloat, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, soft_rows
from jaxprompt.types import Conditioning

# Tokens of a text in the paper's experiments on GLUE.
_TEXT_LENGTH = 256


class DeptOptions(options.Options):
    name: Literal["dept"] = Field("dept", description="soft tokens and a low-rank change of the text's embeddings")
    rank: PositiveInt = Field(30, description="of the change; 30 beside 60 soft tokens in the paper")
    alpha: PositiveFloat = Field(8.0, description="the change is multiplied by alpha / sqrt(rank)")
    text_length: PositiveInt | None = Field(
        None, description="tokens of the text that change; unset: 256, or as many as the model has positions for"
    )
    init: Init = Field(Init(), description="where the soft tokens start")


@dataclass(frozen=True)
class Dept:
    """Learns `{"prompt": {"soft": [prompt, embed]}, "change": {"a": [positions, rank], "b": [rank, embed]}}`.

    Row `n` of `scale * a @ b` is added to the embedding of token `n` of the input text, soft tokens left out of the count:
    what an encoder reads, or a decoder up to what it is to write. The text that a decoder or an encoder-decoder writes
    stays as it is, and so do tokens behind the last row. `b` starts at 0. The paper learns `prompt` at a rate of 0.3 or 0.4
    and `change` at 0.0005 to 0.005 (or 0.3): `optimizer.rates.change`.

    Scale and start are those of the authors' code (github.com/ZhengxiangShi/DePT, prompt_tuning_lora.py). It lets a decoder's
    change go on over the targets in training and not in generation; here both are without.
    """

    name: ClassVar[str] = "dept"
    Options: ClassVar = DeptOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "soft tokens, and a low-rank change of the input text's embeddings by position"
    length: int
    rank: int
    scale: float
    text_length: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: DeptOptions, soft_length: int, backbone) -> "Dept":
        most = max(backbone.max_positions - soft_length, 1)
        length = options.text_length or min(_TEXT_LENGTH, most)
        if length > most:
            raise InputError(
                f"method.text_length {length} is more than the {most} tokens that {backbone.ref!r} can read beside the prompt: "
                "lower it"
            )
        return cls(soft_length, options.rank, options.alpha / options.rank**0.5, length, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        # As PyTorch's kaiming_uniform_ with a = sqrt(5), whose fan is the rank.
        bound, shape = self.rank**-0.5, (self.text_length, self.rank)
        a = jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=-bound, maxval=bound)
        return {
            "prompt": {"soft": soft_rows(self.start_from, key, self.length, start)},
            "change": {"a": a, "b": jnp.zeros((self.rank, start.backbone.soft_size))},
        }

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        change = trainable["change"]
        return Conditioning(soft=trainable["prompt"]["soft"], change=self.scale * change["a"] @ change["b"])
