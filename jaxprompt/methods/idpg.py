"""IDPG (Wu et al. 2022, arXiv:2204.04497): soft tokens that a small network makes of each example's own text."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import Start
from jaxprompt.methods.starts import Init, normal_array, soft_rows
from jaxprompt.types import Conditioning, Generator

_SCALE = 0.02


class IdpgOptions(options.Options):
    name: Literal["idpg"] = Field("idpg", description="soft tokens that are made of each example's own text")
    bottleneck: PositiveInt = Field(
        16, description="width of the network; 16 in the authors' scripts, 256 in the paper"
    )
    init: Init = Field(Init(), description="where the part of the soft tokens starts that all examples share")


@dataclass(frozen=True)
class Idpg:
    """Learns `{"prompt": {"soft": [prompt, embed]}, "generator": {"down", "bias", "up"}}`.

    Soft row `i` of an example is `soft[i] + up[i] gelu(down m + bias)`, `m` being the mean of the frozen word embeddings of
    what its fields hold: no word of the template, no target, no label word. Of an encoder-decoder that is what the encoder
    reads. An example without text has `m = 0`. `soft` is the bias of the paper's second layer, and so the same for all.

    Layers and start, N(0, 0.02), are those of the authors' code (github.com/CSerxy/IDPG, the two-layer DNN). The paper's text
    vector is the state of the first token in a pass through the whole model, or the mean of GloVe vectors; the mean of the
    model's own word embeddings, which costs no pass, stands in for the latter. Its dropout, its layers of Kronecker products
    and its prompts in later layers are left out.
    """

    name: ClassVar[str] = "idpg"
    Options: ClassVar = IdpgOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "soft tokens, and a network that adds to them by each example's text"
    reads_text: ClassVar[bool] = True
    length: int
    width: int
    bottleneck: int
    start_from: Init
    positions: int = 0

    @classmethod
    def build(cls, options: IdpgOptions, soft_length: int, backbone) -> "Idpg":
        return cls(soft_length, backbone.soft_size, options.bottleneck, options.init)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        down, up = jax.random.split(jax.random.fold_in(key, 1))
        network = {
            "down": normal_array(down, (self.bottleneck, self.width), _SCALE),
            "bias": jnp.zeros(self.bottleneck),
            "up": normal_array(up, (self.length, self.width, self.bottleneck), _SCALE),
        }
        return {"prompt": {"soft": soft_rows(self.start_from, key, self.length, start)}, "generator": network}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(soft=trainable["prompt"]["soft"], generator=Generator(**trainable["generator"]))
