"""What a metric is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxprompt.errors import InputError

# Per example, by name: what an objective put out, and what it is compared with.
Values = Mapping[str, np.ndarray]
# Of each example what was written, and what might have been: any of its references.
Texts = Sequence[str]
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Metric:
    """A figure of a whole data set, made of what an objective puts out.

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


@dataclass(frozen=True)
class TextMetric:
    """A figure of written texts against references.

    Attributes:
      of: of all texts together; or, where `each`, of one text and its references, and the figure is the mean.
      package: what has to be installed for it, by its name on PyPI and as a module.
    """

    name: str
    of: Callable
    each: bool = True
    package: tuple[str, str] | None = None
    higher_is_better: bool = True

    def values(self, texts: Texts, references: References) -> np.ndarray | None:
        """The figure of each example, where it is a mean of them."""
        return np.array([self.of(*pair) for pair in zip(texts, references, strict=True)]) if self.each else None

    def __call__(self, texts: Texts, references: References) -> float:
        values = self.values(texts, references)
        return float(self.of(texts, references) if values is None else values.mean())

    def check(self) -> None:
        """Raises InputError where its package is not installed."""
        from importlib.util import find_spec

        if self.package is not None and find_spec(self.package[1]) is None:
            raise InputError(f'the figure {self.name!r} needs {self.package[0]}: pip install "jaxprompt[metrics]"')
