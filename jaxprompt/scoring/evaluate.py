"""Scores of a prompt on a data set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprompt.errors import InputError, listed, not_finite
from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import Ahead
from jaxprompt.machine.members import for_each
from jaxprompt.machine.sharding import replicated
from jaxprompt.metrics import Metric
from jaxprompt.scoring.forward import Forward
from jaxprompt.types import Batch, Conditioning, Scores, is_stacked


@dataclass(frozen=True)
class Evaluation:
    """Per example, in the data set's order.

    Attributes:
      outputs: by name, `[examples, ...]`, what the objective put out.
      answers: by name, `[examples]`, what it is compared with; -1 or NaN where there is none.
    """

    outputs: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return len(next(iter(self.outputs.values())))

    def of(self, examples: np.ndarray) -> "Evaluation":
        """The same of some examples, by a mask or by their numbers, some of which may be repeated."""
        parts = ({name: values[examples] for name, values in part.items()} for part in (self.outputs, self.answers))
        return Evaluation(*parts)

    @property
    def answered(self) -> np.ndarray:
        """Which examples have an answer."""
        known = np.ones(self.size, bool)
        for values in self.answers.values():
            known &= ~np.isnan(values) if np.issubdtype(values.dtype, np.floating) else values != -1
        return known

    @property
    def not_finite(self) -> list[int]:
        """The numbers, from 1, of the examples whose outputs hold NaN or infinity: such an evaluation says nothing."""
        finite = np.ones(self.size, bool)
        for values in self.outputs.values():
            finite &= np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        return [int(number) + 1 for number in np.flatnonzero(~finite)]

    def metrics(self, metrics: Iterable[Metric]) -> dict:
        """The figures over the examples that have an answer, how many those are, and how many have none."""
        known = self.of(self.answered)
        figures = {metric.name: metric(known.outputs, known.answers) for metric in metrics}
        figures["examples"] = known.size
        if known.size < self.size:
            figures["without_answer"] = self.size - known.size
        return figures


def refusal(evaluation: Evaluation, dtype: Any) -> InputError:
    """What to say of an evaluation that is not finite, by a model of this type."""
    numbers = evaluation.not_finite
    return not_finite(f"example {listed(numbers)} ({len(numbers)} of {evaluation.size})", dtype)


def evaluate(eval_step: Callable[[Batch], Scores], batches: Iterable[Batch], place: Callable, size: int) -> Evaluation:
    """Scores every example of `batches`.

    Args:
      eval_step: scores one batch on the devices.
      place: puts a batch of numpy arrays on the devices.
      size: number of examples in all; slots name theirs by `Batch.index`.
    """
    return _evaluate(eval_step, batches, place, size, None)[0]


def evaluate_each(
    eval_step: Callable[[Batch], Scores], batches: Iterable[Batch], place: Callable, size: int, prompts: int
) -> list[Evaluation]:
    """As `evaluate`, of several prompts at once.

    Args:
      eval_step: scores one batch under each prompt, by a leading axis of what it gives.
      batches: the same for all prompts, or stacked: one for each.
    """
    return _evaluate(eval_step, batches, place, size, prompts)


def _evaluate(eval_step, batches, place, size, prompts: int | None) -> list[Evaluation]:
    found: list[tuple[dict, dict]] = [({}, {}) for _ in range(prompts or 1)]

    def collect(batch: Batch, scores: Scores) -> None:
        outputs = jax.device_get(scores.outputs)
        for number, parts in enumerate(found):
            own = jax.tree.map(lambda x, at=number: x[at], batch) if is_stacked(batch) else batch
            used = own.index >= 0
            order = own.index[used]
            here = outputs if prompts is None else {name: value[number] for name, value in outputs.items()}
            for kept, new in zip(parts, (here, own.answers), strict=True):
                for name, value in new.items():
                    values = np.asarray(value)[used]
                    kept.setdefault(name, np.zeros((size, *values.shape[1:]), values.dtype))[order] = values

    # One batch behind, so that the next is packed and begun while the device is at work.
    begun = None
    for batch in batches:
        scores = eval_step(place(batch))
        if begun is not None:
            collect(*begun)
        begun = batch, scores
    if begun is not None:
        collect(*begun)
    return [Evaluation(*parts) for parts in found]


def make_eval_step(
    forward: Forward, frozen: dict | None = None, prompts: bool = False
) -> Callable[[Conditioning, dict, Batch], Scores]:
    """Returns `evaluate(conditioning, head, batch) -> Scores`, compiled.

    The frozen parameters, and `.ahead` of what is returned, are as in `make_train_step`.

    Args:
      prompts: conditionings and heads are several, stacked, and so is what is returned; a batch is one for all, or
        stacked too.
    """
    frozen = forward.frozen() if frozen is None else frozen

    def eval_step(frozen, conditioning, head, batch):
        def one(conditioning, head, batch):
            return forward(conditioning, head, frozen, batch)

        if not prompts:
            return one(conditioning, head, batch)
        return for_each(one, (conditioning, head), batch, forward.backbone.mesh, forward.reads_apart(batch))

    # Every process has the scores of all rows.
    ahead = Ahead(compiler.jit(eval_step, out_shardings=replicated(forward.backbone.mesh)))

    def scored(conditioning: Conditioning, head: dict, batch: Batch) -> Scores:
        return ahead(frozen, conditioning, head, batch)

    scored.ahead = ahead
    return scored
