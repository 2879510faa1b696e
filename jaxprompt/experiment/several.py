"""Several tasks learned in the same batches, each with its own template, objective, data and prompt."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config, task_configs
from jaxprompt.data.loader import FreshLoader
from jaxprompt.data.mixing import Mixture, temperature_weights
from jaxprompt.data.order import Order
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment, build
from jaxprompt.experiment.data import TrainingData, batch_size_for, evaluation_data, make_loader
from jaxprompt.experiment.fingerprint import fingerprints_of
from jaxprompt.machine.background import Background
from jaxprompt.methods import Method
from jaxprompt.methods.per_task import PerTask
from jaxprompt.objectives.several import Several
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation
from jaxprompt.scoring.owners import joined, moved, of_owner
from jaxprompt.text.encoded import Encoded
from jaxprompt.types import Conditioning

# The folder of a run in which every task has one of its own.
TASKS = "tasks"


@dataclasses.dataclass(frozen=True)
class SeveralExperiment(Experiment):
    """What is of all tasks, in the form of an experiment of one.

    Attributes:
      parts: the tasks by name, each as it would be alone.
    """

    parts: Mapping[str, Experiment] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, parts: Mapping[str, Experiment]) -> "SeveralExperiment":
        first = next(iter(parts.values()))
        method = PerTask(
            {task: part.method for task, part in parts.items()},
            {task: part.objective.label_texts for task, part in parts.items()},
            joined,
        )
        objective = Several({task: part.objective for task, part in parts.items()})
        return cls(config, first.backbone, method, objective, first.encoder, parts=parts)

    def loaded(self) -> "SeveralExperiment":
        backbone = self.backbone.loaded()
        parts = {task: dataclasses.replace(part, backbone=backbone) for task, part in self.parts.items()}
        return dataclasses.replace(self, backbone=backbone, parts=parts)

    @property
    def bare_source(self) -> bool:
        return all(part.bare_source for part in self.parts.values())

    @property
    def rows_before(self) -> list[int]:
        """How many soft rows stand before those of each task."""
        lengths = [part.encoder.template.soft_length for part in self.parts.values()]
        return [sum(lengths[:number]) for number in range(len(lengths))]

    def learned(self, prompts: Sequence[Prompt]) -> tuple[Conditioning, dict]:
        """The conditioning and the heads of the tasks' prompts, for a mixed batch."""
        heads = {task: prompt.head for task, prompt in zip(self.parts, prompts, strict=True) if prompt.head}
        return joined([prompt.conditioning for prompt in prompts], list(self.parts)), heads

    def found_in(self, found: Evaluation, number: int) -> Evaluation:
        """Of an evaluation of all tasks, that of one."""
        return Evaluation(*self.objective.of_task(number, found.outputs, found.answers))


@dataclasses.dataclass(frozen=True)
class SeveralData(TrainingData):
    """The data of all tasks, mixed.

    Attributes:
      parts: by task, as it would be alone.
    """

    parts: Mapping[str, TrainingData] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, experiment: SeveralExperiment) -> "SeveralData":
        """Reads, encodes and mixes the tasks' rows. Raises InputError, naming the task, as `TrainingData.load`."""
        config, parts = experiment.config, {}
        for task, part in experiment.parts.items():
            with naming_task(task):
                parts[task] = TrainingData.load(part)
                if isinstance(parts[task].train, FreshLoader):
                    raise InputError("data.stream and data.augment are not for several tasks: leave them out")
        sets, hoisted = numbered(
            experiment,
            {
                task: (
                    data.train.examples if data.train else [],
                    data.validation.loader.examples if data.validation else [],
                )
                for task, data in parts.items()
            },
            {task: data.hoisted for task, data in parts.items()},
        )
        train, valid = (list(filter(None, of_all)) for of_all in zip(*sets, strict=True))
        for name, of_all in (("train", train), ("validation", valid)):
            if len(of_all) not in (0, len(parts)):
                raise InputError(f"data.{name} is set for some of the tasks only: name rows of each, or of none")
        loader = None
        if train:
            sizes = [len(examples) for examples in train]
            order = _mixture(experiment, sizes, batch_size_for(config, sum(sizes)))
            loader = make_loader(experiment, _chained(train), order, config.train.accumulate)
        return cls(
            hoisted=hoisted,
            train=loader,
            validation=evaluation_data(experiment, _chained(valid)) if valid else None,
            validation_rows=[],
            accumulate=config.train.accumulate,
            fingerprints=fingerprints_of([part.fingerprints for part in parts.values()]),
            majority=None,
            truncated={f"{task} {name}": n for task, part in parts.items() for name, n in part.truncated.items()},
            parts=parts,
        )


def numbered(
    experiment: SeveralExperiment, sets: Mapping[str, Sequence[list[Encoded]]], shared: Mapping[str, tuple[int, ...]]
) -> tuple[list[tuple[list[Encoded], ...]], tuple[tuple[int, ...], ...]]:
    """Every task's sets of examples, and its hoisted ids, in the numbers that a mixed batch has."""
    vocab_size, objective = experiment.backbone.vocab_size, experiment.objective
    none = {
        f"{task}/{name}": float("nan") if isinstance(value, float) else -1
        for task, of_task in sets.items()
        for example in itertools.islice(itertools.chain(*of_task), 1)
        for name, value in example.answers.items()
    }
    found, hoisted = [], []
    for owner, (task, of_task) in enumerate(sets.items()):
        before = experiment.rows_before[owner]

        def own(example, owner=owner, task=task, before=before):
            answers = objective.numbers_of(task, example.answers, none)
            return dataclasses.replace(of_owner(example, owner, before, vocab_size), answers=answers)

        found.append(tuple([own(example) for example in examples] for examples in of_task))
        hoisted.append(tuple(moved(shared[task], before, vocab_size).tolist()))
    return found, tuple(hoisted)


def _chained(parts: Iterable[list[Encoded]]) -> list[Encoded]:
    return list(itertools.chain.from_iterable(parts))


def _mixture(experiment: SeveralExperiment, sizes: list[int], batch_size: int) -> Mixture:
    """Which examples make up each batch: of every task as many, or by data.weights or data.temperature."""
    data = experiment.config.data
    if data.weights is not None and (data.temperature is not None or len(data.weights) != len(sizes)):
        raise InputError(
            f"data.weights has to hold one number for each of {len(sizes)} tasks, without data.temperature"
        )
    weights = data.weights or (temperature_weights(sizes, data.temperature) if data.temperature else [1.0] * len(sizes))
    seeds = [part.config.seed_of("data") for part in experiment.parts.values()]
    orders = (Order(size, batch_size, seed, data.shuffle) for size, seed in zip(sizes, seeds, strict=True))
    return Mixture(tuple(orders), tuple(weights), batch_size)


def build_several(
    config: Config, backbone: Backbone | None, reporter: Reporter | None, background: Background | None
) -> SeveralExperiment:
    """Puts the parts of all tasks together; arguments and errors as those of `build`, errors with the task's name."""
    parts: dict[str, Experiment] = {}
    for task, of_task in task_configs(config).items():
        with naming_task(task):
            parts[task] = build(of_task, backbone, reporter, background=background)
            _check_method(parts[task].method)
        backbone = parts[task].backbone
    return SeveralExperiment.of(config, parts)


def means(experiment: SeveralExperiment, by_task: Mapping[str, Mapping]) -> dict[str, float]:
    """The mean loss of the tasks; `mean`: that of their first figures, where all are the higher the better."""
    firsts = {task: experiment.parts[task].objective.metrics[0] for task in by_task}
    found = {"loss": float(np.mean([figures["loss"] for figures in by_task.values()]))}
    if all(metric.higher_is_better for metric in firsts.values()):
        found = {"mean": float(np.mean([by_task[task][metric.name] for task, metric in firsts.items()]))} | found
    return found


def _check_method(method: Method) -> None:
    """Raises InputError for a method whose share of the loss, of a step or of other tasks a mixed step does not have."""
    if hasattr(method, "further_loss") or hasattr(method, "project"):
        raise InputError(f"method {method.name} has a loss or bounds of its own: learn it by itself")
    shared = [name for name, part in getattr(method, "parts", {}).items() if hasattr(part, "shared")]
    if shared:
        raise InputError(f"method.parts has {shared[0]}, which tasks share, and parts are not shared: use it alone")


@contextlib.contextmanager
def naming_task(task: str) -> Iterator[None]:
    """Puts the task before an error in what is its own."""
    try:
        yield
    except InputError as error:
        raise InputError(f"tasks.{task}: {error}") from None
