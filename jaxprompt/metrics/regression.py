"""Figures of numbers `[examples]` against numbers `[examples]`."""

import numpy as np

from jaxprompt.metrics.base import Metric


def pearson(found: np.ndarray, wanted: np.ndarray) -> float:
    """Pearson's correlation; 0 where either is constant, as GLUE's scorers make it."""
    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(wanted) == 0:
        return 0.0
    return float(np.corrcoef(found.astype(np.float64), wanted.astype(np.float64))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in their order, from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


MEAN_SQUARED_ERROR = Metric(
    "loss", False, lambda outputs, answers: float(np.mean((outputs["value"] - answers["value"]) ** 2))
)
PEARSON = Metric("pearson", True, lambda outputs, answers: pearson(outputs["value"], answers["value"]))
SPEARMAN = Metric("spearman", True, lambda outputs, answers: pearson(ranks(outputs["value"]), ranks(answers["value"])))
