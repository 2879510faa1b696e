"""SuperPos (Sadraei Javaheri et al. 2024, arXiv:2406.05279): soft tokens that are mixtures of sampled words."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from pydantic import Field, PositiveInt

from jaxprompt import options
from jaxprompt.methods.base import FROZEN, Start
from jaxprompt.methods.starts import sampled_words
from jaxprompt.types import Conditioning


class SuperpositionOptions(options.Options):
    name: Literal["superposition"] = Field("superposition", description="soft tokens that are mixtures of words")
    words: PositiveInt = Field(
        128, description="sampled words that every soft token is a mixture of; the paper's figure"
    )
    top_k: PositiveInt = Field(5000, description="they are sampled among this many of the most frequent tokens")


@dataclass(frozen=True)
class Superposition:
    """Learns `{"prompt": {"mixture": [prompt, words]}}`; the soft prompt is `mixture @ words`, whose rows stay as they are.

    The paper could be read as far as its abstract. That all soft tokens mix the same words, and start as their mean in
    random proportions of the softmax kind, is ours.
    """

    name: ClassVar[str] = "superposition"
    Options: ClassVar = SuperpositionOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "how much of each sampled word is in a soft token (folded into rows when saved)"
    length: int
    words: int
    top_k: int
    positions: int = 0

    @classmethod
    def build(cls, options: SuperpositionOptions, soft_length: int, backbone) -> "Superposition":
        return cls(soft_length, options.words, options.top_k)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        words, mixture = jax.random.split(key)
        # Near one word each: a mean of many is as good as no word at all.
        shares = jax.nn.softmax(4.0 * jax.random.normal(mixture, (self.length, self.words)), axis=-1)
        return {
            "prompt": {"mixture": shares},
            FROZEN: {"words": sampled_words(words, self.words, start, self.top_k)},
        }

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        return Conditioning(soft=trainable["prompt"]["mixture"] @ jax.lax.stop_gradient(trainable[FROZEN]["words"]))
