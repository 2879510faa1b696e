"""Classifier: a linear head over pooled hidden states."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from jaxprompt.objectives.base import DataAccess, Vocabulary
from jaxprompt.objectives.classes import Classes, ClassOptions
from jaxprompt.objectives.pooling import Pooled, PoolOptions, apply_head, linear_head
from jaxprompt.types import Batch, Scores


class ClassifierOptions(ClassOptions, PoolOptions):
    type: Literal["classifier"] = Field("classifier", description="score a classification head")


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Pooled, Classes):
    """Learns `{"head": {"weight": [classes, embed], "bias": [classes]}}`."""

    name: ClassVar[str] = "classifier"
    mixes: ClassVar[bool] = True
    Options: ClassVar = ClassifierOptions

    @classmethod
    def build(cls, options: ClassifierOptions, data: DataAccess) -> "Classifier":
        return super().build(options, data, how=options.pool)

    def init(self, hidden_size: int) -> dict[str, dict]:
        return linear_head(hidden_size, len(self.label_names))

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        return self.scores(apply_head(head, self.vectors(hidden, batch, vocabulary.size)), batch)
