"""Generation: every token of a target text is scored, and the end of sequence behind it."""

import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field, PositiveFloat

from jaxprompt.errors import InputError
from jaxprompt.metrics import BITS_PER_BYTE, PERPLEXITY, TARGET_TOKENS, TEXT_METRICS, TOKEN_LOSS
from jaxprompt.objectives.base import DataAccess, LossOptions, Objective, Vocabulary
from jaxprompt.ops.losses import PLAIN, LossShape, sum_by_group
from jaxprompt.text.encode import RowEncoder, check_started
from jaxprompt.text.encoded import Encoded, constant, int32
from jaxprompt.text.values import column_value, shown, text_value, where
from jaxprompt.types import Batch, Scores


class GenerationOptions(LossOptions):
    type: Literal["generation"] = Field("generation", description="score a target text")
    number: PositiveFloat | None = Field(
        None, description="the target is a number, written rounded to a multiple of this, as T5 writes STS-B's by 0.2"
    )


@dataclass(frozen=True, eq=False)
class Generation(Objective):
    """Learns to write the text of a column.

    A column that holds a list of texts is learned by the first, and compared with all.

    Attributes:
      column: its name.
      number: of what a number is written as a multiple; None: the column holds text.
      shape: of the loss.
    """

    name: ClassVar[str] = "generation"
    Options: ClassVar = GenerationOptions
    needs: ClassVar = ("target",)
    metrics: ClassVar = (TOKEN_LOSS, PERPLEXITY, TARGET_TOKENS)
    more_metrics: ClassVar = (BITS_PER_BYTE,)
    text_metrics: ClassVar = TEXT_METRICS
    scores_eos: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    column: str
    number: float | None = None
    shape: LossShape = PLAIN

    @classmethod
    def build(cls, options: GenerationOptions, data: DataAccess) -> "Generation":
        return cls(data.target, options.number, options.shape)

    def answer(self, row: Mapping[str, Any], number: int, required: bool = True) -> dict[str, Any]:
        given = column_value(row, self.column, number, "data.target")
        if self.number is not None:
            return {"target": self._number(given, number)}
        if not isinstance(given, list | tuple):
            return {"target": text_value(row, self.column, number, "data.target")}
        if not given:
            raise InputError(
                f"{where(number)}column {self.column!r} is an empty list (remove the row or give it a text)"
            )
        texts = [text_value({self.column: text}, self.column, number, "data.target") for text in given]
        return {"target": texts[0], "references": texts}

    def _number(self, given: Any, number: int) -> str:
        """The nearest multiple, with as many decimals as the step has: t5/data/preprocessors.py, stsb."""
        step = decimal.Decimal(str(self.number))
        try:
            times = decimal.Decimal(str(given)) / step
            return str(times.quantize(decimal.Decimal(1), decimal.ROUND_HALF_EVEN) * step)
        except decimal.InvalidOperation:
            raise InputError(f"{where(number)}{self.column!r} is {shown(given)}: give a finite number") from None

    def answered(self, row: Mapping[str, Any], number: int, encoder: RowEncoder) -> list[int]:
        (target,) = self.candidates(self.answer(row, number), encoder, number)
        return list(target)

    def numbers(self, answer: Mapping[str, Any]) -> dict[str, float | int]:
        return {"bytes": len(answer["target"].encode())}

    def candidates(self, answer: Mapping[str, Any], encoder: RowEncoder, number: int | None) -> Sequence[Sequence[int]]:
        if not answer.get("target"):
            raise InputError(f"{where(number)}the target is empty (remove the row or give it a text)")
        return [encoder.target_ids(answer["target"], number)]

    def lay_out(
        self, trunk: list[int], candidates: Sequence[Sequence[int]], encoder: RowEncoder, number: int | None
    ) -> Encoded:
        """The last token of a target is not among the ids, since nothing follows for it to predict."""
        check_started(trunk, number)
        (target,) = candidates
        first, count = len(trunk) - 1, len(target)
        return encoder.example(
            [*trunk, *target[:-1]],
            target_at=int32(np.arange(first, first + count)),
            target_ids=int32(target),
            target_group=constant(0, count),
        )

    def at(self, batch: Batch):
        return batch.target_at

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        losses, logprobs = vocabulary.losses(hidden, batch.target_ids, self.shape)
        slots = batch.index.shape[1]

        def by_slot(values):
            return sum_by_group(values * batch.target_weight, batch.target_group, slots)

        tokens = by_slot(jnp.ones_like(batch.target_weight))
        return Scores(losses=by_slot(losses), counts=tokens, outputs={"nll": -by_slot(logprobs), "tokens": tokens})

    def scores_like(self, other: Objective) -> bool:
        return isinstance(other, Generation) and other.shape == self.shape
