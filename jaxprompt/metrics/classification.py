"""Figures of class logits `[examples, classes]` against class numbers `[examples]`."""

from collections.abc import Sequence

import numpy as np

from jaxprompt.metrics.base import Metric


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose label has the highest logit."""
    return float((logits.argmax(-1) == labels).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-probability of the labels, nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-logprobs[np.arange(len(labels)), labels].mean())


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that occur, among predictions or labels, of each class's F1."""
    scores = []
    for label in np.union1d(predicted, labels):
        hits = np.sum((predicted == label) & (labels == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(scores))


def majority(labels: Sequence[int], of: Sequence[int]) -> float:
    """Accuracy on `labels` of always answering the most frequent of the labels `of`."""
    values, counts = np.unique(np.asarray(of), return_counts=True)
    return float((np.asarray(labels) == values[counts.argmax()]).mean())


ACCURACY = Metric("accuracy", True, lambda outputs, answers: accuracy(outputs["logits"], answers["label"]))
MACRO_F1 = Metric("macro_f1", True, lambda outputs, answers: macro_f1(outputs["logits"].argmax(-1), answers["label"]))
CROSS_ENTROPY = Metric("loss", False, lambda outputs, answers: cross_entropy(outputs["logits"], answers["label"]))
