"""Figures of numbers `[examples]` against numbers `[examples]`."""

from collections.abc import Callable

import numpy as np

from jaxprompt.metrics.base import Metric


def correlation(of: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """`pearsonr` or `spearmanr` of SciPy; 0 where either side is constant, as GLUE's scorers make it."""

    def correlate(found: np.ndarray, wanted: np.ndarray) -> float:
        from scipy import stats

        if len(found) < 2 or np.ptp(found) == 0 or np.ptp(wanted) == 0:
            return 0.0
        return float(getattr(stats, of)(np.asarray(found, np.float64), np.asarray(wanted, np.float64)).statistic)

    return correlate


pearson, spearman = correlation("pearsonr"), correlation("spearmanr")

MEAN_SQUARED_ERROR = Metric(
    "loss", False, lambda outputs, answers: float(np.mean((outputs["value"] - answers["value"]) ** 2))
)
PEARSON = Metric("pearson", True, lambda outputs, answers: pearson(outputs["value"], answers["value"]))
SPEARMAN = Metric("spearman", True, lambda outputs, answers: spearman(outputs["value"], answers["value"]))
