"""Multiple choice: each row brings its own choices, which are scored at the target as label words are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from jaxprompt.errors import InputError
from jaxprompt.metrics import ACCURACY, CALIBRATION_ERROR, CROSS_ENTROPY
from jaxprompt.metrics.classification import probabilities
from jaxprompt.objectives.base import DataAccess, LossOptions, Objective, Vocabulary
from jaxprompt.objectives.classes import class_scores
from jaxprompt.objectives.verbalizer import branched
from jaxprompt.ops.losses import PLAIN, LossShape, sum_by_group
from jaxprompt.text.encode import RowEncoder, check_started
from jaxprompt.text.encoded import Encoded, side_by_side
from jaxprompt.text.labels import UNLABELLED, canonical
from jaxprompt.text.values import as_text, column_value, is_missing, plain, shown, where
from jaxprompt.types import Batch, Scores

# The score of a choice that a row does not have: its probability is 0, and no number is infinite.
_ABSENT = -1.0e9


class ChoicesOptions(LossOptions):
    type: Literal["choices"] = Field("choices", description="score the choices that a row brings")
    choices: list[str] = Field(
        ["choices"],
        min_length=1,
        description="columns of the choices; one alone: a list of texts, or a mapping with text and label",
    )
    most: Annotated[int, Field(ge=2, le=1000)] = Field(5, description="choices of a row at most, where they are a list")
    score: Literal["sum", "mean", "pmi"] = Field(
        "sum",
        description="a choice's score: the log-probability of all its tokens, of each on average, or how much the row's "
        "fields raise it",
    )


@dataclass(frozen=True, eq=False)
class Choices(Objective):
    """Chooses one of a row's texts.

    Attributes:
      column: the name of the column that says which: a place from 0 on, a letter from A on, a name of the row's own
        choices, or the text of one.
      columns: where the choices are.
      most: how many a row may have.
      how: what a choice's score is. "sum": the log-probability of all its tokens; "mean": of each on average, so that longer
        choices are not at a disadvantage; "pmi": how much higher it is than behind the template with empty fields, so
        that frequent texts have no advantage (Holtzman et al. 2021, whose premise of the domain is then the
        template's own text; the formula log p(y|x) - log p(y|premise) is theirs, from memory of the paper).
      shape: of the loss.
    """

    name: ClassVar[str] = "choices"
    Options: ClassVar = ChoicesOptions
    needs: ClassVar = ("target",)
    metrics: ClassVar = (ACCURACY, CROSS_ENTROPY)
    more_metrics: ClassVar = (CALIBRATION_ERROR,)
    column: str
    columns: tuple[str, ...]
    most: int
    how: str
    shape: LossShape = PLAIN

    @classmethod
    def build(cls, options: ChoicesOptions, data: DataAccess) -> "Choices":
        several = len(options.choices) > 1
        return cls(
            data.label,
            tuple(options.choices),
            len(options.choices) if several else options.most,
            options.score,
            options.shape,
        )

    def bound(self, backbone: Any, encoder: RowEncoder) -> Objective:
        if self.how == "pmi" and backbone.seq2seq:
            raise InputError("objective.score pmi is for decoders (use sum or mean with an encoder-decoder)")
        return self

    @property
    def num_words(self) -> int:
        return 2 * self.most if self.how == "pmi" else self.most

    def texts(self, row: Mapping[str, Any], number: int | None) -> tuple[list[str], list[str]]:
        """A row's choices, and their names, where it has any. Raises InputError for fewer than two or too many."""
        names: Sequence[Any] = ()
        if len(self.columns) > 1:
            given = [column_value(row, name, number, "objective.choices") for name in self.columns]
        else:
            given = column_value(row, self.columns[0], number, "objective.choices")
            if isinstance(given, Mapping):
                given, names = given.get("text", ()), given.get("label", ())
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
            raise InputError(f"{where(number)}{self.columns[0]!r} is {shown(given)}: give a list of choices")
        if not 2 <= len(given) <= self.most:
            raise InputError(
                f"{where(number)}{len(given)} choices: there are 2 to {self.most} (correct the row, or raise objective.most)"
            )
        try:
            texts, names = [as_text(text) for text in given], [canonical(name) for name in names]
        except InputError as error:
            raise InputError(f"{where(number)}a choice {error}") from None
        if not all(map(str.strip, texts)):
            raise InputError(f"{where(number)}a choice is empty (give it a text)")
        return texts, names

    def answer(self, row: Mapping[str, Any], number: int, required: bool = True) -> dict[str, Any]:
        texts, names = self.texts(row, number)
        value = plain(column_value(row, self.column, number, "data.label"))
        try:
            name = "" if is_missing(value) else canonical(value)
        except InputError as error:
            raise InputError(f"{where(number)}{self.column!r} has {error}") from None
        if name == str(UNLABELLED) and not required:
            return {"label": UNLABELLED}
        letter = ord(name) - ord("A") if re.fullmatch("[A-Z]", name) else -1
        place = int(name) if re.fullmatch("[0-9]{1,4}", name) else letter
        # A name or text of the row's own goes before a place.
        place = next((own.index(name) for own in (names, texts) if name in own), place)
        if not 0 <= place < len(texts):
            raise InputError(
                f"{where(number)}{self.column!r} is {shown(value)}, which is none of {len(texts)} choices (give a place from 0 "
                "on, a letter from A on, or the text of one)"
            )
        return {"label": place}

    def numbers(self, answer: Mapping[str, Any]) -> dict[str, float | int]:
        return {"label": answer.get("label", UNLABELLED)}

    def encode(
        self, row: Mapping[str, Any], answer: Mapping[str, Any], encoder: RowEncoder, number: int | None = None
    ) -> Encoded:
        return super().encode(row, {**answer, "texts": self.texts(row, number)[0]}, encoder, number)

    def candidates(self, answer: Mapping[str, Any], encoder: RowEncoder, number: int | None) -> Sequence[Sequence[int]]:
        return [encoder.target_ids(text, number) for text in answer["texts"]]

    def lay_out(
        self, trunk: list[int], candidates: Sequence[Sequence[int]], encoder: RowEncoder, number: int | None
    ) -> Encoded:
        check_started(trunk, number)
        example = branched(trunk, candidates, encoder)
        if self.how != "pmi":
            return example
        premise = encoder.trunk(dict.fromkeys(encoder.template.fields, "")).ids
        check_started(premise, number)
        return side_by_side(example, branched(premise, candidates, encoder), self.most)

    def at(self, batch: Batch):
        return batch.target_at

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        rows, slots = batch.index.shape
        logprobs = vocabulary.logprobs(hidden, batch.target_ids) * batch.target_weight
        scores, tokens = (
            sum_by_group(values, batch.target_group, slots * self.num_words).reshape(rows, slots, -1, self.most)
            for values in (logprobs, batch.target_weight)
        )
        tokens = tokens[:, :, 0]
        if self.how == "pmi":
            scores = scores[:, :, 0] - scores[:, :, 1]
        else:
            scores = scores[:, :, 0] / jnp.maximum(tokens, 1.0) if self.how == "mean" else scores[:, :, 0]
        # An empty slot has none at all, and must not be divided by.
        there = (tokens > 0) | (tokens.sum(-1, keepdims=True) == 0)
        return class_scores(jnp.where(there, scores, _ABSENT), batch, self.shape, there=there)

    def present(self, outputs: Mapping[str, np.ndarray]) -> list[dict]:
        """`prediction`, a place from 0 on, and its `probability`."""
        found = probabilities(outputs["logits"])
        return [{"prediction": int(row.argmax()), "probability": float(row.max())} for row in found]

    def shown(self, row: Mapping[str, Any], presented: Mapping[str, Any]) -> dict[str, Any]:
        """The text of the choice in place of its number."""
        return {**presented, "prediction": self.texts(row, None)[0][presented["prediction"]]}
