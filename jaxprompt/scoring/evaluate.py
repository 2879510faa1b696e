"""Scores of a prompt on a data set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import numpy as np

from jaxprompt.metrics import figures as metrics
from jaxprompt.objectives import Scores
from jaxprompt.scoring.forward import Forward
from jaxprompt.types import Batch


@dataclass(frozen=True)
class Evaluation:
    """Per example, in the data set's order.

    Attributes:
      labels: class numbers, -1 where unknown; None for generation.
      logits: `[examples, classes]`; None for generation.
      nll, tokens: summed negative log-likelihood and length of each target; None unless generation.
    """

    labels: np.ndarray | None = None
    logits: np.ndarray | None = None
    nll: np.ndarray | None = None
    tokens: np.ndarray | None = None

    def metrics(self) -> dict:
        """The figures of `jaxprompt.metrics.figures` over the examples that have a label or a target."""
        if self.logits is None:
            return metrics.generation(self.nll, self.tokens)
        known = self.labels >= 0
        return metrics.classification(self.logits[known], self.labels[known])

    def probabilities(self) -> np.ndarray:
        """`[examples, classes]`."""
        shifted = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)


def evaluate(eval_step: Callable, trainable: dict, batches: Iterable[Batch], place: Callable, size: int) -> Evaluation:
    """Scores every example of `batches`.

    Args:
      eval_step: from `make_eval_step`.
      place: puts a batch of numpy arrays on the devices.
      size: number of examples in all; slots name theirs by `Batch.index`.
    """
    found: dict[str, np.ndarray] = {}

    def collect(batch: Batch, scores) -> None:
        scores = jax.device_get(scores)
        used = batch.index >= 0
        order = batch.index[used]
        parts = {"logits": scores.logits, "nll": scores.nll, "tokens": scores.tokens}
        if scores.logits is not None:
            parts["labels"] = batch.labels
        for name, value in parts.items():
            if value is not None:
                values = np.asarray(value)[used]
                found.setdefault(name, np.zeros((size, *values.shape[1:]), values.dtype))[order] = values

    # One batch behind, so that the next is packed and begun while the device is at work.
    begun = None
    for batch in batches:
        scores = eval_step(trainable, place(batch))
        if begun is not None:
            collect(*begun)
        begun = batch, scores
    if begun is not None:
        collect(*begun)
    return Evaluation(**found)


def make_eval_step(forward: Forward, frozen: dict | None = None) -> Callable[[dict, Batch], Scores]:
    """Returns `evaluate(trainable, batch) -> Scores`, compiled; frozen parameters as in `make_train_step`."""
    frozen = forward.frozen() if frozen is None else frozen

    @jax.jit
    def eval_step(frozen, trainable, batch):
        return forward(trainable, frozen, batch)

    return lambda trainable, batch: eval_step(frozen, trainable, batch)
