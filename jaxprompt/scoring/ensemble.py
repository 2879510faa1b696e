"""Several prompts as one answer: their evaluations of the same examples, put together."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.metrics.classification import probabilities
from jaxprompt.scoring.evaluate import Evaluation

How = Literal["mean", "vote"]
HOW = ("mean", "vote")
# What the mean probability counts beside a vote: enough to tell equal votes apart, and to keep logarithms finite.
_BESIDE_VOTES = 1e-6


def combined(found: Sequence[Evaluation], how: How | None = None) -> Evaluation:
    """The evaluation of an ensemble, by default by "mean"; of one prompt, its own.

    By "mean", a class has the mean of its probabilities, and a number is the mean of the numbers. By "vote", a class has
    the share of the prompts that answer with it; of equal shares the one of the larger mean probability is answered.

    Raises InputError for answers that are neither, or a vote on numbers.
    """
    if len(found) == 1:
        return found[0]
    outputs, answers = [one.outputs for one in found], found[0].answers
    if "logits" in outputs[0]:
        shares = np.stack([probabilities(one["logits"].astype(np.float64)) for one in outputs])
        mean = shares.mean(0)
        if how == "vote":
            votes = np.eye(mean.shape[-1])[shares.argmax(-1)].mean(0)
            mean = (1.0 - _BESIDE_VOTES) * votes + _BESIDE_VOTES * mean
        return Evaluation({"logits": np.log(np.maximum(mean, 1e-30)).astype(np.float32)}, answers)
    if "value" not in outputs[0]:
        raise InputError("an ensemble is of answers, and these prompts write text: use one of them")
    if how == "vote":
        raise InputError("numbers have no majority: set --ensemble mean")
    return Evaluation({"value": np.mean([one["value"] for one in outputs], axis=0)}, answers)
