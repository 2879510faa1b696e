"""Figures of outputs against answers; an objective names its own, the one that chooses the best prompt first."""

from jaxprompt.metrics.base import Metric, Values
from jaxprompt.metrics.classification import ACCURACY, CROSS_ENTROPY, MACRO_F1
from jaxprompt.metrics.regression import MEAN_SQUARED_ERROR, PEARSON, SPEARMAN
from jaxprompt.metrics.text import PERPLEXITY, TARGET_TOKENS, TOKEN_LOSS

__all__ = [
    "ACCURACY",
    "CROSS_ENTROPY",
    "MACRO_F1",
    "MEAN_SQUARED_ERROR",
    "PEARSON",
    "PERPLEXITY",
    "SPEARMAN",
    "TARGET_TOKENS",
    "TOKEN_LOSS",
    "Metric",
    "Values",
]
