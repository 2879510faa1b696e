"""What the objectives that choose among labels have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field, field_validator

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.metrics import ACCURACY, CALIBRATION_ERROR, CROSS_ENTROPY, F1, MACRO_F1, MATTHEWS, MICRO_F1
from jaxprompt.metrics.classification import probabilities
from jaxprompt.objectives.base import DataAccess, Objective
from jaxprompt.text.labels import LabelSet
from jaxprompt.text.values import as_text, column_value
from jaxprompt.types import Batch, Scores


class ClassOptions(options.Options):
    """The options of all of them."""

    labels: dict[str, str | list[str]] | list[str] | None = Field(
        None, description="label names, or label name: word or words; unset: the names found in the training file"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _names_are_text(cls, value):
        # YAML reads the label name 0 as a number; names that become the same text would be one key, silently.
        if isinstance(value, Mapping):
            words = ([_word(w) for w in v] if isinstance(v, list) else _word(v) for v in value.values())
            return dict(zip(LabelSet(tuple(value)).names, words, strict=True))
        return list(LabelSet(tuple(value)).names) if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    try:
        # What a text may hold is said where it is tokenised.
        return value if isinstance(value, str) else as_text(value)
    except InputError as error:
        raise ValueError(f"a label's word {error}") from None


@dataclass(frozen=True, eq=False)
class Classes(Objective):
    """Chooses one of several labels.

    Attributes:
      column: the name of the label's column.
      labels: the classes, in order.
      words: per class, the words or texts that stand for it.
    """

    metrics: ClassVar = (ACCURACY, MACRO_F1, CROSS_ENTROPY)
    more_metrics: ClassVar = (F1, MICRO_F1, MATTHEWS, CALIBRATION_ERROR)
    column: str
    labels: LabelSet
    words: tuple[tuple[str, ...], ...]

    @classmethod
    def build(cls, options: ClassOptions, data: DataAccess, **more: Any) -> "Classes":
        """Names in order, and their words: what the config says, else what the data or a run does."""
        given = options.labels
        labels = data.labels() if given is None else LabelSet(tuple(given))
        if len(labels.names) < 2:
            raise InputError(
                f"objective.labels has {len(labels.names)} label(s) ({', '.join(labels.names)}): classification needs two"
            )
        texts = given if isinstance(given, dict) else {name: name.replace("_", " ") for name in labels.names}
        words = tuple((w,) if isinstance(w, str) else tuple(w) for w in texts.values())
        return cls(column=data.label, labels=labels, words=words, **more)

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def label_texts(self) -> tuple[str, ...]:
        return tuple(word for group in self.words for word in group)

    def answer(self, row: Mapping[str, Any], number: int, required: bool = True) -> dict[str, Any]:
        value = column_value(row, self.column, number, "data.label")
        return {"label": self.labels.label_id(value, row=number, unlabelled_ok=not required)}

    def numbers(self, answer: Mapping[str, Any]) -> dict[str, float | int]:
        return {"label": answer.get("label", -1)}

    def present(self, outputs: Mapping[str, np.ndarray]) -> list[dict]:
        """`prediction`, a label's name, and its `probability`."""
        return [
            {"prediction": self.label_names[int(row.argmax())], "probability": float(row.max())}
            for row in probabilities(outputs["logits"])
        ]


def class_scores(logits: Float[Array, "rows slots classes"], batch: Batch) -> Scores:
    """Cross-entropy over the examples that have a label."""
    labels = batch.answers["label"]
    weight = ((labels >= 0) & (batch.index >= 0)).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return Scores(loss=(losses * weight).sum(), count=weight.sum(), outputs={"logits": logits})
