"""What a metric is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Per example, by name: what an objective put out, and what it is compared with.
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A figure of a whole data set.

    Attributes:
      name: what records call it.
      higher_is_better: the direction in which a prompt is better; None for a count, which chooses nothing.
      of: `of(outputs, answers) -> number`, over the examples that have an answer; arrays `[examples, ...]`.
    """

    name: str
    higher_is_better: bool | None
    of: Callable[[Values, Values], float | int]

    def __call__(self, outputs: Values, answers: Values) -> float | int:
        return self.of(outputs, answers)
