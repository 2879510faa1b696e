"""Several objectives in one batch, each for the examples of its own task."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxprompt.metrics.base import Values
from jaxprompt.objectives.base import Objective, Vocabulary
from jaxprompt.types import Batch, Scores

# The answer of an example that says which task it is of, counted from 0.
TASK = "task"


@dataclass(frozen=True)
class _Once(Vocabulary):
    """A vocabulary that computes the losses of the same ids at the same places once, whoever asks."""

    known: list[tuple] = field(default_factory=list)

    def losses(self, hidden, ids, shape):
        for other_hidden, other_ids, other_shape, found in self.known:
            if other_hidden is hidden and other_ids is ids and other_shape == shape:
                return found
        found = super().losses(hidden, ids, shape)
        self.known.append((hidden, ids, shape, found))
        return found


@dataclass(frozen=True, eq=False)
class Several(Objective):
    """Scores each example as the objective of its task does.

    Examples are encoded by the parts; `numbers_of` makes their answers those of a mixed batch.

    Attributes:
      parts: by the names of the tasks, bound.
    """

    name: ClassVar[str] = "several"
    metrics: ClassVar = ()
    parts: Mapping[str, Objective]

    @functools.cached_property
    def _groups(self) -> list[list[int]]:
        """The tasks, those together that one call scores."""
        groups: list[list[int]] = []
        objectives = list(self.parts.values())
        for number, objective in enumerate(objectives):
            alike = next((group for group in groups if objectives[group[0]].scores_like(objective)), None)
            if alike is None:
                groups.append([number])
            else:
                alike.append(number)
        return groups

    def _group_of(self, number: int) -> int:
        return next(at for at, group in enumerate(self._groups) if number in group)

    @property
    def num_words(self) -> int:
        return max(objective.num_words for objective in self.parts.values())

    def numbers_of(self, task: str, answers: Mapping[str, Any], none: Mapping[str, Any]) -> dict[str, Any]:
        """What goes into `Batch.answers` of an example of a task: its own, by `task/name`, and which task it is.

        Args:
          none: by all such names of all tasks, what stands where there is no answer.
        """
        return {**none, **{f"{task}/{name}": value for name, value in answers.items()}, TASK: self._number(task)}

    def _number(self, task: str) -> int:
        return list(self.parts).index(task)

    def init(self, hidden_size: int) -> dict[str, dict]:
        found: dict[str, dict] = {}
        for task, objective in self.parts.items():
            for group, part in objective.init(hidden_size).items():
                found.setdefault(group, {})[task] = part
        return found

    def frozen(self) -> Any:
        return [objective.frozen() for objective in self.parts.values()]

    def _of_group(self, group: Sequence[int], batch: Batch) -> tuple[Objective, Batch, Any]:
        """The objective of a group, the batch as if nothing else were in it, and which slots are the group's."""
        objective, words = list(self.parts.values())[group[0]], self.num_words
        mine = jnp.isin(batch.answers[TASK], jnp.asarray(group)) & (batch.index >= 0)
        slot, word = batch.target_group // words, batch.target_group % words
        weight = batch.target_weight * jnp.take_along_axis(mine, slot, axis=1)
        answers: dict[str, Any] = {}
        for number in group:
            for name, value in _of_task(list(self.parts)[number], batch.answers).items():
                # Elsewhere a task's answers are those that are none.
                answers[name] = jnp.where(batch.answers[TASK] == number, value, answers.get(name, value))
        own = batch.replace(
            answers=answers,
            index=jnp.where(mine, batch.index, -1),
            target_weight=weight,
            target_group=slot * objective.num_words + jnp.minimum(word, objective.num_words - 1),
        )
        return objective, own, mine

    def _places(self, batch: Batch) -> tuple[list[tuple], list[Any]]:
        """What `_of_group` gives for each group and the number of its place, and the places, each once."""
        groups, places = [], []
        for group in self._groups:
            objective, own, mine = self._of_group(group, batch)
            at = objective.at(own)
            known = next((number for number, other in enumerate(places) if other is at), len(places))
            if known == len(places):
                places.append(at)
            groups.append((objective, own, mine, known))
        return groups, places

    def at(self, batch: Batch) -> Int[Array, "rows n"] | None:
        _, places = self._places(batch)
        # Where one of them needs all, the others find theirs among all.
        return None if any(at is None for at in places) else jnp.concatenate(places, axis=1)

    def score(self, vocabulary: Vocabulary, head: dict, frozen: Any, hidden, batch: Batch) -> Scores:
        tasks, outputs, losses, counts = list(self.parts), {}, 0.0, 0.0
        groups, places = self._places(batch)
        if any(at is None for at in places):
            parts = [hidden if at is None else jnp.take_along_axis(hidden, at[..., None], axis=1) for at in places]
        else:
            parts = jnp.split(hidden, np.cumsum([at.shape[1] for at in places])[:-1], axis=1)
        vocabulary = _Once(vocabulary.backbone, vocabulary.params)
        for number, (group, (objective, own, mine, place)) in enumerate(zip(self._groups, groups, strict=True)):
            first = group[0]
            scores = objective.score(vocabulary, head.get(tasks[first], {}), frozen[first], parts[place], own)
            outputs |= {f"{number}/{name}": value for name, value in scores.outputs.items()}
            losses, counts = losses + jnp.where(mine, scores.losses, 0.0), counts + jnp.where(mine, scores.counts, 0.0)
        return Scores(losses, counts, outputs)

    def of_task(self, number: int, outputs: Values, answers: Values) -> tuple[Values, Values]:
        """Of the outputs and answers of all examples, those of one task's, as its objective names them."""
        mine, task = answers[TASK] == number, list(self.parts)[number]
        parts = _of_task(str(self._group_of(number)), outputs), _of_task(task, answers)
        return tuple({name: values[mine] for name, values in part.items()} for part in parts)


def _of_task(before: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{before}/"): value for key, value in values.items() if key.startswith(f"{before}/")}
