"""What an objective is: what is scored, how it becomes a loss, and what is answered."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pydantic import Field

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import row_shards
from jaxprompt.metrics import Metric, TextMetric
from jaxprompt.ops.losses import PLAIN, LossShape, token_losses
from jaxprompt.options import Options
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.labels import LabelSet
from jaxprompt.text.templates import Template
from jaxprompt.types import Batch, Scores


@dataclass(frozen=True)
class DataAccess:
    """What an objective may know of the data before a model is loaded.

    Attributes:
      label, target: names of the columns.
      labels: finds the classes, where the config does not name them.
      counts: how many training rows each class has.
    """

    label: str
    target: str
    labels: Callable[[], LabelSet]
    counts: Callable[[LabelSet], Sequence[int]]


class LossOptions(Options):
    """How a cross-entropy is shaped."""

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the target's probability that training spreads over all classes or tokens",
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        description="added in training: this times the squared log of the softmax's denominator, such as 1e-4",
    )

    @property
    def shape(self) -> LossShape:
        return LossShape(self.label_smoothing, self.z_loss)


@dataclass(frozen=True)
class Vocabulary:
    """The language-model head of a backbone, over parameters that may be traced."""

    backbone: Any
    params: Any

    @property
    def size(self) -> int:
        return self.backbone.vocab_size

    def logits(self, hidden: Float[Array, "*batch embed"], columns: Sequence[int]) -> Float[Array, "*batch columns"]:
        """Float32 logits of these token ids alone."""
        return self.backbone.head(self.params, hidden, columns=jnp.asarray(columns))

    def logprobs(self, hidden: Float[Array, "rows n embed"], ids: Int[Array, "rows n"]) -> Float[Array, "rows n"]:
        """The log-probability of each id under the whole vocabulary."""
        return -self.losses(hidden, ids, PLAIN)[0]

    def losses(
        self, hidden: Float[Array, "rows n embed"], ids: Int[Array, "rows n"], shape: LossShape
    ) -> tuple[Float[Array, "rows n"], Float[Array, "rows n"]]:
        """The loss of each id, and its log-probability, through which no gradient flows."""
        head, params = self.backbone.head, self.backbone.head_params(self.params)
        return token_losses(head, params, hidden, ids, self.size, shape, shards=row_shards(self.backbone.mesh))


@dataclass(frozen=True, eq=False)
class Objective:
    """The base of all objectives: frozen dataclasses, one file each.

    Attributes:
      name: what a config calls it.
      Options: its config keys.
      needs: the placeholders at which it scores: "target" in a decoder, "mask" in a masked model; none: it scores
        the text as it stands.
      metrics: its figures; the first chooses the best prompt, equal ones are told apart by the loss.
      more_metrics: figures that may be asked for.
      text_metrics: likewise, of what is written.
      scores_eos: whether the end of sequence is scored behind the target without being asked for.
      writes: whether it is answered by writing text.
      mixes: whether training may mix the inputs and the losses of two examples.
      needs_weights: whether `bound` computes with the backbone: it then waits for the weights to be read.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]]
    needs: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[Metric, ...]]
    more_metrics: ClassVar[tuple[Metric, ...]] = ()
    text_metrics: ClassVar[tuple[TextMetric, ...]] = ()
    scores_eos: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False

    # --- before a model is loaded

    @classmethod
    def build(cls, options: Options, data: DataAccess) -> "Objective":
        """Returns the objective that a config and its data ask for; raises InputError for what they lack."""
        raise NotImplementedError

    @classmethod
    def check(cls, template: Template, causal: bool, seq2seq: bool) -> None:
        """Raises InputError where a template and a kind of model do not go with the objective."""
        kind = "encoder-decoder" if seq2seq else "causal" if causal else "masked"
        writes = causal or seq2seq
        if seq2seq and not cls.needs:
            raise InputError(f"a {cls.name} on an encoder-decoder is not implemented (use a verbalizer or generation)")
        if cls.needs == ("target",) and not writes:
            raise InputError(f"{cls.name} needs a causal model (use a verbalizer or a classifier with a masked one)")
        need = next((name for name in cls.needs if name == ("target" if writes else "mask")), None)
        found = [name for name, has in (("target", template.has_target), ("mask", template.has_mask)) if has]
        where = f"a {cls.name} on a {kind} model"
        if found and found != [need]:
            remedy = f"use {{{need}}}" if need else "remove it"
            raise InputError(f"{{{found[0]}}} in template {template.text!r} does not go with {where} ({remedy})")
        if need and not found:
            raise InputError(f"template {template.text!r} has no {{{need}}}, which {where} needs (add it)")

    # --- with a model

    def bound(self, backbone: Any, encoder: RowEncoder) -> "Objective":
        """Returns the objective with what it needs of a backbone and its tokenizer."""
        return self

    def check_variant(self, encoder: RowEncoder) -> None:
        """Raises InputError where another template's examples are not to be scored as those of the first."""

    def for_rows(self) -> "Objective":
        """What encodes rows, without arrays on devices: it may be sent to other processes."""
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes, in order; empty where there are none."""
        return ()

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The words or texts of the labels, for prompts that start from them."""
        return ()

    @property
    def num_words(self) -> int:
        """Candidates per example: the stride of `Batch.target_group`."""
        return 1

    # --- rows to examples, on the host

    def answer(self, row: Mapping[str, Any], number: int, required: bool = True) -> dict[str, Any]:
        """Returns what a row is to be answered with, by name; empty where it need not be there and is not.

        Raises InputError, naming the row and the key, for an answer that is missing or impossible.
        """
        raise NotImplementedError

    def candidates(self, answer: Mapping[str, Any], encoder: RowEncoder, number: int | None) -> Sequence[Sequence[int]]:
        """Returns the token ids that may stand at the target or mask; none where the text is scored as it stands."""
        return ()

    def lay_out(
        self, trunk: list[int], candidates: Sequence[Sequence[int]], encoder: RowEncoder, number: int | None
    ) -> Encoded:
        """Returns the example: the trunk, the candidates in or behind it, and what is scored where."""
        raise NotImplementedError

    def answered(self, row: Mapping[str, Any], number: int, encoder: RowEncoder) -> list[int]:
        """Returns the ids at the target of a row that is shown with its answer.

        Raises InputError where that is no text.
        """
        raise InputError(
            f"objective.type {self.name!r} answers with no text that examples could show: use a verbalizer"
        )

    def numbers(self, answer: Mapping[str, Any]) -> dict[str, float | int]:
        """Returns what goes into `Batch.answers`, -1 or NaN where there is none."""
        return {}

    def encode(
        self, row: Mapping[str, Any], answer: Mapping[str, Any], encoder: RowEncoder, number: int | None = None
    ) -> Encoded:
        """Encodes one row. Raises InputError for a missing field, or an example too long even with empty fields."""
        candidates = self.candidates(answer, encoder, number)
        # What the longest path has beyond the trunk (in a masked model one mask is in the trunk already).
        trunk = encoder.trunk(row, max(map(len, candidates), default=1) - 1, number)
        example = self.lay_out(trunk.ids, candidates, encoder, number)
        return dataclasses.replace(
            example,
            truncated=trunk.truncated,
            source=trunk.source,
            answers=self.numbers(answer),
            read=trunk.read_in(example),
            source_read=None if trunk.source_read is None else np.asarray(trunk.source_read, bool),
        )

    # --- scoring, on the device

    def init(self, hidden_size: int) -> dict[str, dict]:
        """Returns the trainable groups beside the prompt's, fp32: a head, or nothing."""
        return {}

    def frozen(self) -> Any:
        """Returns arrays that `score` needs and no step changes."""
        return None

    def at(self, batch: Batch) -> Int[Array, "rows n"] | None:
        """Returns where hidden states are scored; None: everywhere."""
        raise NotImplementedError

    def score(
        self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden: Float[Array, "rows n embed"], batch: Batch
    ) -> Scores:
        """Scores a batch from its hidden states at `at(batch)`. Pure and differentiable in hidden and head."""
        raise NotImplementedError

    def scores_like(self, other: "Objective") -> bool:
        """Whether `score` does with any batch what that of another objective does, so that one call may do for both."""
        return self is other

    # --- what is shown

    def present(self, outputs: Mapping[str, np.ndarray]) -> list[dict]:
        """Returns the answer of each example, from outputs `[examples, ...]`."""
        raise NotImplementedError

    def shown(self, row: Mapping[str, Any], presented: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what is shown of a row's answer, one of `present`."""
        return dict(presented)
