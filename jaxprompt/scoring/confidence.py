"""Confidence intervals of figures, by resampling examples (Efron and Tibshirani 1993, chapter 13: the percentile interval)."""

from collections.abc import Callable, Mapping

import numpy as np

# How often examples are drawn anew: of figures that are means of examples, and of those that are computed again each time.
MEANS, WHOLE = 2000, 200


def intervals(
    means: Mapping[str, np.ndarray],
    whole: Mapping[str, Callable[[np.ndarray], float]],
    size: int,
    confidence: float,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The lower and the upper end for each figure.

    Args:
      means: by name, the values of the examples `[size]` of which a figure is the mean.
      whole: by name, a function from numbers of examples, some of them repeated, to the figure.
      size: how many examples there are.
      confidence: such as 0.95.
    """
    rng = np.random.default_rng([seed, 11])
    ends = [50 * (1 - confidence), 50 * (1 + confidence)]
    found = {}
    for name, values in means.items():
        drawn = [values[rng.integers(0, size, size)].mean() for _ in range(MEANS)]
        found[name] = [float(end) for end in np.percentile(drawn, ends)]
    for name, of in whole.items():
        drawn = [of(rng.integers(0, size, size)) for _ in range(WHOLE)]
        found[name] = [float(end) for end in np.percentile(drawn, ends)]
    return found
