"""The figures of several learners as one: mean, standard deviation, least and largest."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Figures that count, or are the same for all.
_LEFT_OUT = ("step", "best_step", "examples", "inputs", "without_answer", "majority_accuracy")


def spread(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """`mean`, `std` (of the sample; 0 of one), `min` and `max`, each by figure."""
    names = [name for name, value in results[0].items() if isinstance(value, float) and name not in _LEFT_OUT]
    values = {name: [result[name] for result in results] for name in names}
    kinds = {
        "mean": statistics.fmean,
        "std": lambda v: statistics.stdev(v) if len(v) > 1 else 0.0,
        "min": min,
        "max": max,
    }
    return {kind: {name: of(numbers) for name, numbers in values.items()} for kind, of in kinds.items()}
