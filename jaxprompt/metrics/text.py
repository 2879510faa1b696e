"""Figures of target texts: summed negative log-likelihoods and lengths, `[examples]` each."""

import math

from jaxprompt.metrics.base import Metric, Values


def token_loss(outputs: Values) -> float:
    """Mean negative log-likelihood per target token, nats."""
    return float(outputs["nll"].sum() / max(outputs["tokens"].sum(), 1))


TOKEN_LOSS = Metric("loss", False, lambda outputs, answers: token_loss(outputs))
# Its logarithm is cut where a float's range ends.
PERPLEXITY = Metric("perplexity", False, lambda outputs, answers: math.exp(min(token_loss(outputs), 700.0)))
TARGET_TOKENS = Metric("target_tokens", None, lambda outputs, answers: int(outputs["tokens"].sum()))
