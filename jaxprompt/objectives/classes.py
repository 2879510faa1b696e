"""What the objectives that choose among labels have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pydantic import Field, field_validator

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.metrics import ACCURACY, CALIBRATION_ERROR, CROSS_ENTROPY, F1, MACRO_F1, MATTHEWS, MICRO_F1
from jaxprompt.metrics.classification import probabilities
from jaxprompt.objectives.base import DataAccess, LossOptions, Objective
from jaxprompt.ops.losses import PLAIN, LossShape
from jaxprompt.text.encoded import MIX_LABEL, MIX_SHARE
from jaxprompt.text.labels import LabelSet
from jaxprompt.text.values import as_text, column_value
from jaxprompt.types import Batch, Scores


class ClassOptions(LossOptions):
    """The options of all of them."""

    labels: dict[str, str | list[str]] | list[str] | None = Field(
        None, description="label names, or label name: word or words; unset: the names found in the training file"
    )

    class_weights: dict[str, Annotated[float, Field(gt=0)]] | Literal["balanced"] | None = Field(
        None, description="weights of the labels' losses by name; balanced: inverse to their numbers of training rows"
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
      shape: of the loss.
      weights: per class, what its losses count; None: all the same.
    """

    metrics: ClassVar = (ACCURACY, MACRO_F1, CROSS_ENTROPY)
    more_metrics: ClassVar = (F1, MICRO_F1, MATTHEWS, CALIBRATION_ERROR)
    column: str
    labels: LabelSet
    words: tuple[tuple[str, ...], ...]
    shape: LossShape = PLAIN
    weights: tuple[float, ...] | None = None

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
        weights = _weights(options.class_weights, labels, data)
        return cls(column=data.label, labels=labels, words=words, shape=options.shape, weights=weights, **more)

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

    def scores(self, logits: Float[Array, "rows slots classes"], batch: Batch) -> Scores:
        """Cross-entropy over the examples that have a label."""
        return class_scores(logits, batch, self.shape, weights=self.weights)


def _weights(given: Mapping | str | None, labels: LabelSet, data: DataAccess) -> tuple[float, ...] | None:
    """The weight of each class; "balanced" as scikit-learn's: rows / (classes * rows of the class)."""
    if given is None:
        return None
    if isinstance(given, str):
        counts = data.counts(labels)
        return tuple(sum(counts) / (len(counts) * max(count, 1)) for count in counts)
    for name in (*given, *labels.names):
        if name not in labels.names:
            raise InputError(f"objective.class_weights has label {name!r}{did_you_mean(name, labels.names)}")
        if name not in given:
            raise InputError(f"objective.class_weights has no label {name!r}: give it a weight, such as 1.0")
    return tuple(given[name] for name in labels.names)


def class_scores(
    logits: Float[Array, "rows slots classes"],
    batch: Batch,
    shape: LossShape = PLAIN,
    weights: tuple[float, ...] | None = None,
    there: Bool[Array, "rows slots classes"] | None = None,
) -> Scores:
    """Cross-entropy over the examples that have a label; their mean is weighted by `weights` of the labels.

    Args:
      there: which classes each example has; None: all.
    """
    total, mean = jax.nn.logsumexp(logits, axis=-1), jnp.mean(logits, axis=-1, where=there)

    def weighted(labels, share):
        """The losses of all examples by these labels, and what they count."""
        weight = share * ((labels >= 0) & (batch.index >= 0))
        if weights is not None:
            weight = weight * jnp.asarray(weights, jnp.float32)[jnp.maximum(labels, 0)]
        chosen = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return shape.losses(chosen, total, mean) * weight, weight.astype(jnp.float32)

    if MIX_SHARE not in batch.answers:
        losses, counts = weighted(batch.answers["label"], 1.0)
    else:
        # mixup (Zhang et al. 2018): the loss is mixed as the inputs are. Empty slots have no share.
        share = jnp.nan_to_num(batch.answers[MIX_SHARE])
        parts = weighted(batch.answers["label"], 1.0 - share), weighted(batch.answers[MIX_LABEL], share)
        losses, counts = jax.tree.map(jnp.add, *parts)
    return Scores(losses=losses, counts=counts, outputs={"logits": logits})
