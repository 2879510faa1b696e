"""CPT (Blau et al. 2024, arXiv:2410.17222): a prompt of labelled examples, whose embeddings may change within bounds."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field, NonNegativeFloat, PositiveInt

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import FROZEN, Start
from jaxprompt.types import Conditioning, Inputs

# The width of embeddings for which bounds are given: they grow with the square root of it.
_WIDTH = 2048


class CptOptions(options.Options):
    name: Literal["cpt"] = Field(
        "cpt", description="training examples as a prompt whose embeddings change within bounds"
    )
    examples: PositiveInt = Field(4, description="training rows in the prompt, drawn by the seed")
    separator: str = Field("\n", description="text behind each of them")
    text_bound: NonNegativeFloat = Field(
        0.1, description="how far the embedding of a token of a field may move, for embeddings 2048 wide"
    )
    template_bound: NonNegativeFloat = Field(0.1, description="the same of the template's tokens")
    decay: float = Field(
        1.0, gt=0, le=1, description="the loss on an example's label weighs that of the next one times this"
    )


@dataclass(frozen=True)
class Context:
    """Labelled examples as token ids, one behind the other.

    Attributes:
      ids: of all of them.
      read: which hold text of fields; the others are the template's and the labels'.
      labels: which example's label each is part of, counted from 1; 0: of none.
    """

    ids: tuple[int, ...]
    read: tuple[bool, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Cpt:
    """Learns `{"prompt": {"change": [prompt, embed]}}`, which is added to the embeddings of the examples' tokens.

    It starts at 0, stays 0 at the tokens of labels, and after each step is scaled back to its bound, row by row. What is
    learned by is the loss on the context's labels, once for each example of a batch, beside the example's own: the mean over
    all these tokens. Bounds and losses are those of PEFT's CPTEmbedding.

    Attributes:
      examples, separator: what is asked for.
      text_bound, template_bound, decay: as in the options.
      context: the examples; None in a run that is used, which keeps the rows.
    """

    name: ClassVar[str] = "cpt"
    Options: ClassVar = CptOptions
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "a bounded change of the embeddings of training examples that stand before the text"
    length: int
    examples: int
    separator: str
    text_bound: float
    template_bound: float
    decay: float
    context: Context | None = None
    positions: int = 0

    @classmethod
    def build(cls, options: CptOptions, soft_length: int, backbone: Any) -> "Cpt":
        if not backbone.causal:
            raise InputError(f"method cpt is for decoders, {backbone.ref!r} is none: use method soft")
        return cls(soft_length, **options.model_dump(exclude={"name"}))

    @property
    def asked(self) -> tuple[int, str]:
        """How many examples, and what is behind each."""
        return self.examples, self.separator

    def with_context(self, context: Context) -> "Cpt":
        """The method for examples. Raises InputError where the template has not as many soft tokens as they have tokens."""
        if len(context.ids) != self.length:
            raise InputError(
                f"method.examples {self.examples} come to {len(context.ids)} tokens and the template has "
                f"{self.length} soft tokens: write {{soft:{len(context.ids)}}}"
            )
        return dataclasses.replace(self, context=context)

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        table = start.backbone.word_embedding(start.backbone.params)
        rows = table[jnp.asarray(self._context.ids)].astype(jnp.float32)
        return {"prompt": {"change": jnp.zeros_like(rows)}, FROZEN: {"rows": rows}}

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        change, rows = trainable["prompt"]["change"], jax.lax.stop_gradient(trainable[FROZEN]["rows"])
        return Conditioning(soft=rows + jnp.where(self._bounds(rows.shape[1])[:, None] > 0, change, 0.0))

    def project(self, trainable: dict[str, dict]) -> dict[str, dict]:
        """The parameters with each row of the change within its bound."""
        change = trainable["prompt"]["change"]
        bounds = self._bounds(change.shape[1])
        size = jnp.maximum(jnp.linalg.norm(change, axis=1), bounds)
        factor = jnp.where(bounds > 0, bounds / jnp.where(size > 0, size, 1.0), 0.0)
        return {**trainable, "prompt": {"change": change * factor[:, None]}}

    def further_loss(
        self, backbone: Any, params: Any, conditioning: Conditioning, examples: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The loss on the labels of the context, for each of so many examples of a batch, and how many tokens that is."""
        labels = np.asarray(self._context.labels)
        at = np.flatnonzero(labels)
        places = jnp.arange(self.length)[None]
        inputs = Inputs(backbone.vocab_size + places, places, jnp.ones_like(places))
        hidden = backbone.apply(params, inputs, soft=conditioning.soft, at=jnp.asarray(at - 1)[None])[0]
        logprobs = jax.nn.log_softmax(backbone.head(params, hidden))
        found = logprobs[jnp.arange(len(at)), jnp.asarray(self._context.ids)[at]]
        # The example of the batch comes last.
        weights = self.decay ** (labels.max() + 1.0 - labels[at])
        return -(found * weights).sum() * examples, len(at) * examples

    def _bounds(self, width: int) -> Float[Array, " prompt"]:
        context, scale = self._context, (width / _WIDTH) ** 0.5
        bounds = jnp.where(np.asarray(context.read), self.text_bound * scale, self.template_bound * scale)
        return jnp.where(np.asarray(context.labels) > 0, 0.0, bounds)

    @property
    def _context(self) -> Context:
        if self.context is None:
            raise InputError("method cpt is made of a run's training examples, by itself: leave it out of method.parts")
        return self.context
