"""Metrics of predictions against labels."""

import math
from collections.abc import Sequence

import numpy as np


def classification(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracy, macro F1 and mean cross-entropy.

    Args:
      logits: `[examples, classes]`.
      labels: `[examples]` class numbers.
    """
    predicted = logits.argmax(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": macro_f1(predicted, labels),
        "loss": float(-logprobs[np.arange(len(labels)), labels].mean()),
        "examples": len(labels),
    }


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that occur, among predictions or labels, of each class's F1."""
    scores = []
    for label in np.union1d(predicted, labels):
        hits = np.sum((predicted == label) & (labels == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(scores))


def generation(nll: np.ndarray, tokens: np.ndarray) -> dict:
    """Mean negative log-likelihood per target token (nats) and its exponential.

    Args:
      nll: `[examples]` summed over each target.
      tokens: `[examples]` target lengths.
    """
    loss = float(nll.sum() / max(tokens.sum(), 1))
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "target_tokens": int(tokens.sum()),
        "examples": len(nll),
    }


def majority(labels: Sequence[int], of: Sequence[int]) -> float:
    """Accuracy on `labels` of always answering the most frequent of the labels `of`."""
    values, counts = np.unique(np.asarray(of), return_counts=True)
    return float((np.asarray(labels) == values[counts.argmax()]).mean())
