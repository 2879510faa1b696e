"""Similarity: the label whose text's vector is nearest to the example's, by cosine."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from jaxprompt.machine.sharding import on_host
from jaxprompt.objectives.base import DataAccess, Objective, Vocabulary
from jaxprompt.objectives.classes import Classes, ClassOptions
from jaxprompt.objectives.pooling import Pooled, PoolOptions, pool
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.tokens import whole_ids
from jaxprompt.text.values import shown
from jaxprompt.types import Batch, Inputs, Scores


class SimilarityOptions(ClassOptions, PoolOptions):
    type: Literal["similarity"] = Field("similarity", description="score similarity to label texts")
    temperature: float = Field(0.05, gt=0, description="cosine similarities are divided by this")


@dataclass(frozen=True, eq=False, kw_only=True)
class Similarity(Pooled, Classes):
    """Learns no head: the labels' texts are embedded by the bare backbone.

    Attributes:
      temperature: cosine similarities are divided by it.
      label_vectors: unit vectors `[classes, embed]` of the labels' texts.
    """

    name: ClassVar[str] = "similarity"
    mixes: ClassVar[bool] = True
    Options: ClassVar = SimilarityOptions
    needs_weights: ClassVar[bool] = True
    temperature: float = 0.05
    label_vectors: jax.Array | None = None

    @classmethod
    def build(cls, options: SimilarityOptions, data: DataAccess) -> "Similarity":
        return super().build(options, data, how=options.pool, temperature=options.temperature)

    def bound(self, backbone: Any, encoder: RowEncoder) -> Objective:
        pooled = super().bound(backbone, encoder)
        if isinstance(jax.tree.leaves(backbone.params)[0], jax.ShapeDtypeStruct):  # of a backbone without weights
            vectors = jax.ShapeDtypeStruct((len(self.words), backbone.hidden_size), backbone.dtype)
        else:
            vectors = embed_labels(backbone, self.words, pooled.how)
        return dataclasses.replace(pooled, label_vectors=vectors)

    def for_rows(self) -> Objective:
        return dataclasses.replace(self, label_vectors=None)

    def frozen(self) -> jax.Array:
        return self.label_vectors

    def score(self, vocabulary: Vocabulary, head: dict, frozen: jax.Array, hidden, batch: Batch) -> Scores:
        vectors = normalize(self.vectors(hidden, batch, vocabulary.size))
        return self.scores(vectors @ frozen.T / self.temperature, batch)


def embed_labels(backbone: Any, words: tuple[tuple[str, ...], ...], how: str) -> Float[Array, "classes embed"]:
    """Unit vectors: the mean over each label's texts, embedded without any prompt."""
    texts = [text for group in words for text in group]
    tokenizer, size = backbone.tokenizer, backbone.vocab_size
    encoded = [whole_ids(tokenizer, text, f"label text {shown(text)}", size) for text in texts]
    length = max(map(len, encoded))
    ids, mask = (np.zeros((len(texts), length), np.int32) for _ in range(2))
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    hidden = backbone.hidden(ids, mask)
    at = np.zeros((len(texts), 1)) if how == "first" else mask.sum(1, keepdims=True) - 1
    inputs = Inputs(ids=jnp.asarray(ids), positions=jnp.asarray(ids), segments=jnp.asarray(mask))
    vectors = normalize(pool(how, hidden, inputs, jnp.asarray(at, jnp.int32), backbone.vocab_size))
    vectors = on_host(vectors, backbone.mesh)
    ends = np.cumsum([len(group) for group in words])[:-1]
    return normalize(jnp.stack([part.mean((0, 1)) for part in np.split(vectors, ends)]))


def normalize(vectors: Float[Array, "*n embed"]) -> Float[Array, "*n embed"]:
    """Scales vectors to length 1; empty slots (all 0) stay 0, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum((vectors**2).sum(-1, keepdims=True), 1e-24))
