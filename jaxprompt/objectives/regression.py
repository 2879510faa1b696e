"""Regression: a linear head over pooled hidden states gives a number, scored by its squared error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from jaxprompt.errors import InputError
from jaxprompt.metrics import MEAN_SQUARED_ERROR, PEARSON, SPEARMAN
from jaxprompt.objectives.base import DataAccess, Vocabulary
from jaxprompt.objectives.pooling import Pooled, PoolOptions, apply_head, linear_head
from jaxprompt.text.values import column_value, shown
from jaxprompt.types import Batch, Scores


class RegressionOptions(PoolOptions):
    type: Literal["regression"] = Field("regression", description="predict the number in the label's column")


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression(Pooled):
    """Learns `{"head": {"weight": [1, embed], "bias": [1]}}`.

    Attributes:
      column: the name of the number's column.
    """

    name: ClassVar[str] = "regression"
    Options: ClassVar = RegressionOptions
    metrics: ClassVar = (PEARSON, SPEARMAN, MEAN_SQUARED_ERROR)
    column: str

    @classmethod
    def build(cls, options: RegressionOptions, data: DataAccess) -> "Regression":
        return cls(column=data.label, how=options.pool)

    def answer(self, row: Mapping[str, Any], number: int, required: bool = True) -> dict[str, Any]:
        given = column_value(row, self.column, number, "data.label")
        try:
            # Python reads 1_0 as 10, and true as 1.
            value = math.nan if isinstance(given, bool) or "_" in str(given) else float(given)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"row {number}: {self.column!r} is {shown(given)}: give a finite number")
        return {"value": value}

    def numbers(self, answer: Mapping[str, Any]) -> dict[str, float | int]:
        return {"value": answer.get("value", math.nan)}

    def init(self, hidden_size: int) -> dict[str, dict]:
        return linear_head(hidden_size, 1)

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        found = apply_head(head, self.vectors(hidden, batch, vocabulary.size))[..., 0]
        wanted = batch.answers["value"]
        known = (batch.index >= 0) & ~jnp.isnan(wanted)
        # Twice: a NaN must not reach the gradient either.
        error = jnp.where(known, found - jnp.where(known, wanted, 0.0), 0.0)
        return Scores(losses=error**2, counts=known.astype(jnp.float32), outputs={"value": found})

    def present(self, outputs: Mapping[str, np.ndarray]) -> list[dict]:
        """`prediction`, a number."""
        return [{"prediction": float(value)} for value in outputs["value"]]
