"""What is scored: target text, label words, a classification head, or similarity to label texts."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from jaxprompt.ops.losses import gather_positions, sum_by_group, token_logprobs
from jaxprompt.types import Batch, Inputs


class Scores(struct.PyTreeNode):
    """What one batch scored.

    Attributes:
      loss: sum of the losses of everything scored.
      count: how many things were scored: target tokens (generation) or examples. `loss / count` is the mean.
      logits: per slot and class; None for generation.
      nll, tokens: per slot, the sum of the target's negative log-likelihood and its length; None unless generation.
    """

    loss: Float[Array, ""]
    count: Float[Array, ""]
    logits: Float[Array, "rows slots classes"] | None = None
    nll: Float[Array, "rows slots"] | None = None
    tokens: Float[Array, "rows slots"] | None = None


@dataclass(frozen=True)
class Objective:
    """How hidden states become a loss and, for classes, their logits.

    Attributes:
      kind: generation, verbalizer, classifier or similarity.
      label_names: the classes, in order; empty for generation.
      words: per class, the words or texts that stand for it (verbalizer, similarity).
      columns: the token id of each word when every word is one token; None otherwise. Then the head multiplies by
        these columns only.
      pool: mean, first or last (classifier, similarity). Soft tokens are never pooled.
      temperature: cosine similarities are divided by it.
    """

    kind: str
    label_names: tuple[str, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    columns: tuple[int, ...] | None = None
    pool: str = "mean"
    temperature: float = 0.05

    @property
    def num_words(self) -> int:
        """Candidates per example: the words of all labels, or 1 without a verbalizer."""
        return sum(map(len, self.words)) if self.kind == "verbalizer" else 1

    @property
    def scores_classes(self) -> bool:
        return self.kind != "generation"

    def init_head(self, hidden_size: int) -> dict:
        """The trainable head, fp32: a linear classifier that starts at 0, or nothing."""
        if self.kind != "classifier":
            return {}
        classes = len(self.label_names)
        return {"weight": jnp.zeros((classes, hidden_size)), "bias": jnp.zeros((classes,))}

    def positions(self, batch: Batch) -> Int[Array, "rows n"] | None:
        """Where hidden states are scored; None: everywhere."""
        if self.kind in ("classifier", "similarity"):
            return None if self.pool == "mean" else batch.pool_at
        if self.columns is None:
            return batch.target_at
        # One position per example: the same for all of its words.
        rows, slots = batch.index.shape
        used = jnp.where(batch.target_weight > 0, batch.target_at, 0)
        slot = batch.target_group // self.num_words
        return jnp.zeros((rows, slots), used.dtype).at[jnp.arange(rows)[:, None], slot].max(used)

    def score(self, backbone, params, head: dict, label_vectors, hidden, batch: Batch) -> Scores:
        """Scores a batch from its hidden states at `positions(batch)`, `[rows, n, embed]`, or all of them.

        Pure and differentiable in hidden and head.
        """
        if self.kind == "generation":
            return self._score_targets(backbone, params, hidden, batch)
        if self.kind == "verbalizer":
            logits = self._word_logits(backbone, params, hidden, batch)
        else:
            vectors = hidden.astype(jnp.float32)
            if self.pool == "mean":
                vectors = pool("mean", hidden, batch.inputs, batch.pool_at, backbone.vocab_size)
            if self.kind == "classifier":
                logits = vectors @ head["weight"].T + head["bias"]
            else:
                logits = normalize(vectors) @ label_vectors.T / self.temperature
        return class_scores(logits, batch)

    def _score_targets(self, backbone, params, hidden, batch):
        logprobs = token_logprobs(backbone.head, params, hidden, batch.target_ids, backbone.vocab_size)
        weighted = logprobs * batch.target_weight
        slots = batch.index.shape[1]
        return Scores(
            loss=-weighted.sum(),
            count=batch.target_weight.sum(),
            nll=-sum_by_group(weighted, batch.target_group, slots),
            tokens=sum_by_group(batch.target_weight, batch.target_group, slots),
        )

    def _word_logits(self, backbone, params, hidden, batch):
        rows, slots = batch.index.shape
        if self.columns is not None:
            scores = backbone.head(params, hidden, columns=jnp.asarray(self.columns))
        else:
            logprobs = token_logprobs(backbone.head, params, hidden, batch.target_ids, backbone.vocab_size)
            scores = sum_by_group(logprobs * batch.target_weight, batch.target_group, slots * self.num_words)
            scores = scores.reshape(rows, slots, self.num_words)
        if all(len(group) == 1 for group in self.words):
            return scores
        # The probability of a label is the sum of its words' probabilities.
        label = np.repeat(np.arange(len(self.words)), [len(group) for group in self.words])
        shape = (*scores.shape[:-1], len(self.words))
        peak = jax.lax.stop_gradient(jnp.full(shape, -jnp.inf).at[..., label].max(scores))
        return peak + jnp.log(jnp.zeros(shape).at[..., label].add(jnp.exp(scores - peak[..., label])))


def class_scores(logits: Float[Array, "rows slots classes"], batch: Batch) -> Scores:
    """Cross-entropy over the examples that have a label."""
    weight = ((batch.labels >= 0) & (batch.index >= 0)).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.maximum(batch.labels, 0)[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return Scores(loss=(losses * weight).sum(), count=weight.sum(), logits=logits)


def pool(
    how: str, hidden: Float[Array, "rows seq embed"], inputs: Inputs, pool_at, vocab_size: int
) -> Float[Array, "rows slots embed"]:
    """One fp32 vector per slot: the mean over its real tokens, or the hidden state at `pool_at`."""
    if how != "mean":
        return gather_positions(hidden, pool_at).astype(jnp.float32)
    slots = jnp.arange(1, pool_at.shape[1] + 1)
    member = inputs.segments[:, None, :] == slots[None, :, None]
    member = (member & (inputs.ids < vocab_size)[:, None, :]).astype(jnp.float32)
    total = jnp.einsum("res,rsd->red", member, hidden.astype(jnp.float32))
    return total / jnp.maximum(member.sum(-1, keepdims=True), 1.0)


def normalize(vectors: Float[Array, "*n embed"]) -> Float[Array, "*n embed"]:
    """Scales vectors to length 1; empty slots (all 0) stay 0, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum((vectors**2).sum(-1, keepdims=True), 1e-24))
