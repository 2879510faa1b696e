"""Figures of target texts by their likelihood: summed negative log-likelihoods, tokens and bytes, `[examples]` each."""

import math

from jaxprompt.metrics.base import Metric, Values


def token_loss(outputs: Values) -> float:
    """Mean negative log-likelihood per target token, nats."""
    return float(outputs["nll"].sum() / max(outputs["tokens"].sum(), 1))


def bits_per_byte(outputs: Values, answers: Values) -> float:
    """Bits per byte of the target texts in UTF-8, the end of sequence included in the likelihood."""
    return float(outputs["nll"].sum() / math.log(2) / max(answers["bytes"].sum(), 1))


TOKEN_LOSS = Metric("loss", False, lambda outputs, answers: token_loss(outputs))
# Its logarithm is cut where a float's range ends.
PERPLEXITY = Metric("perplexity", False, lambda outputs, answers: math.exp(min(token_loss(outputs), 700.0)))
TARGET_TOKENS = Metric("target_tokens", None, lambda outputs, answers: int(outputs["tokens"].sum()))
BITS_PER_BYTE = Metric("bits_per_byte", False, bits_per_byte)
