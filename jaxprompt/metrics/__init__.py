"""Figures of outputs against answers, and of written texts against references.

An objective names its own, the one that chooses the best prompt first, and those that may be asked for.
"""

from jaxprompt.metrics.base import Metric, TextMetric, Values
from jaxprompt.metrics.classification import (
    ACCURACY,
    CALIBRATION_ERROR,
    CROSS_ENTROPY,
    F1,
    MACRO_F1,
    MATTHEWS,
    MICRO_F1,
)
from jaxprompt.metrics.likelihood import BITS_PER_BYTE, PERPLEXITY, TARGET_TOKENS, TOKEN_LOSS
from jaxprompt.metrics.regression import MEAN_SQUARED_ERROR, PEARSON, SPEARMAN
from jaxprompt.metrics.text import TEXT_METRICS

__all__ = [
    "ACCURACY",
    "BITS_PER_BYTE",
    "CALIBRATION_ERROR",
    "CROSS_ENTROPY",
    "F1",
    "MACRO_F1",
    "MATTHEWS",
    "MEAN_SQUARED_ERROR",
    "MICRO_F1",
    "PEARSON",
    "PERPLEXITY",
    "SPEARMAN",
    "TARGET_TOKENS",
    "TEXT_METRICS",
    "TOKEN_LOSS",
    "Metric",
    "TextMetric",
    "Values",
]
