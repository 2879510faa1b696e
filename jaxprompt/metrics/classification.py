"""Figures of class logits `[examples, classes]` against class numbers `[examples]`."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxprompt.metrics.base import Metric

# Of the expected calibration error: intervals of confidence, as in Guo et al. 2017 (arXiv:1706.04599), section 2.
BINS = 15


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose label has the highest logit."""
    return float((logits.argmax(-1) == labels).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-probability of the labels, nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-logprobs[np.arange(len(labels)), labels].mean())


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits `[examples, classes]`."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """How far confidence and accuracy are apart, in `BINS` intervals of confidence, weighted by their examples."""
    confidence = probabilities(logits).max(-1)
    right = logits.argmax(-1) == labels
    of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(of, right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(labels))


def confusion(logits: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """How often each class (row) was taken for each (column)."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, logits.argmax(-1), labels=range(logits.shape[-1])).tolist()


def majority(labels: Sequence[int], of: Sequence[int]) -> float:
    """Accuracy on `labels` of always answering the most frequent of the labels `of`."""
    values, counts = np.unique(np.asarray(of), return_counts=True)
    return float((np.asarray(labels) == values[counts.argmax()]).mean())


def _f1(average: str) -> Callable:
    def of(outputs, answers) -> float:
        from sklearn.metrics import f1_score

        predicted, labels = outputs["logits"].argmax(-1), answers["label"]
        # Of two classes the second is the positive one; of more, that figure is none.
        binary = average == "binary"
        average_of = "macro" if binary and outputs["logits"].shape[-1] != 2 else average
        return float(f1_score(labels, predicted, average=average_of, zero_division=0.0))

    return of


def _matthews(outputs, answers) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(answers["label"], outputs["logits"].argmax(-1)))


ACCURACY = Metric("accuracy", True, lambda outputs, answers: accuracy(outputs["logits"], answers["label"]))
F1 = Metric("f1", True, _f1("binary"))
MACRO_F1 = Metric("macro_f1", True, _f1("macro"))
MICRO_F1 = Metric("micro_f1", True, _f1("micro"))
MATTHEWS = Metric("matthews", True, _matthews)
CALIBRATION_ERROR = Metric(
    "ece", False, lambda outputs, answers: calibration_error(outputs["logits"], answers["label"])
)
CROSS_ENTROPY = Metric("loss", False, lambda outputs, answers: cross_entropy(outputs["logits"], answers["label"]))
