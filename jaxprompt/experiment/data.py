"""A run's data: encoded, the shared leading ids taken off, packed into batches."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxprompt.data.loader import Loader
from jaxprompt.data.order import Order, Parts
from jaxprompt.data.packing import plan_rows, plan_separate, token_counts
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.rows import naming, training_rows, validates, validation_rows
from jaxprompt.machine.sharding import row_shards
from jaxprompt.metrics.classification import majority
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.hoisting import drop_prefix, hoist_length
from jaxprompt.text.labels import UNLABELLED
from jaxprompt.text.templates import check_fields

# What a program more costs on an accelerator, and what one device computes meanwhile: roughly, for a choice that matters
# only where it is clear.
COMPILE_SECONDS = 10.0
FLOPS_PER_SECOND = 3e14


@dataclass(frozen=True)
class EvaluationData:
    """Encoded examples, as batches."""

    loader: Loader
    size: int

    def batches(self) -> Iterator:
        return self.loader.eval_batches()


@dataclass(frozen=True)
class TrainingData:
    """A run's data: encoded, the shared leading ids taken off, ready to be packed.

    Attributes:
      hoisted: those ids.
      validation_rows: what `validation` was encoded from.
      accumulate: into how many parts a batch is split.
      fingerprint: 16 hex digits that identify all that a result depends on beside the backbone and the config.
      majority: validation accuracy of always answering the most frequent training label; None without labels.
      truncated: by "train" and "validation", how many examples lost field text to fit.
    """

    hoisted: tuple[int, ...]
    train: Loader | None
    validation: EvaluationData | None
    validation_rows: list[dict]
    accumulate: int
    fingerprint: str
    majority: float | None
    truncated: dict[str, int]

    @classmethod
    def load(cls, experiment: Experiment) -> "TrainingData":
        """Reads and encodes the config's data files."""
        config = experiment.config
        if config.data.train is None and config.train.steps:
            raise InputError("data.train is not set: name a file, or set train.steps=0 to score without training")
        if config.data.train is None and not validates(config):
            raise InputError("neither data.train nor data.validation is set: name a file")
        train = _encoded(experiment, "train", training_rows(config)) if config.data.train is not None else []
        valid_rows = validation_rows(config) if validates(config) else []
        valid = encoded_validation(experiment, valid_rows) if valid_rows else []
        # Before the shared ids are taken off: they count too.
        fingerprint = _fingerprint(experiment, train, valid)
        hoisted, (train, valid) = hoist(experiment, [train, valid])
        most_frequent = None
        if experiment.objective.label_names and valid:
            known = (
                [e.answers["label"] for e in part if e.answers["label"] != UNLABELLED]
                for part in (valid, train or valid)
            )
            most_frequent = majority(*known)
        loader = None
        if train:
            if config.train.batch_size % config.train.accumulate:
                raise InputError(
                    f"train.batch_size {config.train.batch_size} does not divide into train.accumulate "
                    f"{config.train.accumulate} parts: change one"
                )
            # A batch of all rows has the gradient of any larger one, which would only hold them again and again.
            whole = -(-len(train) // config.train.accumulate) * config.train.accumulate
            batch_size = min(config.train.batch_size, whole)
            loader = make_loader(experiment, train, batch_size, config.train.accumulate)
        return cls(
            hoisted=hoisted,
            train=loader,
            validation=evaluation_data(experiment, valid) if valid else None,
            validation_rows=valid_rows,
            accumulate=config.train.accumulate,
            fingerprint=fingerprint,
            majority=most_frequent,
            truncated={
                name: count
                for name, part in (("train", train), ("validation", valid))
                if (count := sum(example.truncated for example in part))
            },
        )

    @property
    def batch_size(self) -> int:
        """Training examples in a step: `train.batch_size`, or all where there are not so many."""
        return self.train.order.batch_size * self.accumulate

    def train_batches(self, start_step: int) -> Iterator:
        """Batches from step `start_step` on, without end; lists of them under gradient accumulation."""
        parts = self.train.train_batches(start_step * self.accumulate)
        if self.accumulate == 1:
            yield from parts
        while True:
            yield [next(parts) for _ in range(self.accumulate)]


def _encoded(experiment: Experiment, name: str, rows: list[dict], required: bool = True) -> list[Encoded]:
    with naming(experiment.config, name):
        check_fields(experiment.encoder.template, rows[0])
        examples = experiment.encode(rows, required=required)
        if all(example.answers.get("label") == UNLABELLED for example in examples):
            raise InputError("no row has a label, only -1 as in GLUE's test rows (use the validation split)")
        return examples


def hoist(experiment: Experiment, sets: Sequence[list[Encoded]]) -> tuple[tuple[int, ...], list[list[Encoded]]]:
    """Takes the leading ids that all examples of all sets share off them, where the backbone can share them."""
    examples = [example for part in sets for example in part]
    if not (experiment.config.data.share_prefix and examples):
        return (), list(sets)
    length = hoist_length(experiment.encoder, examples)
    shared = tuple(int(i) for i in examples[0].ids[:length])
    return shared, [[drop_prefix(example, length) for example in part] for part in sets]


def make_loader(experiment: Experiment, examples: list[Encoded], batch_size: int, parts: int = 1) -> Loader:
    """Packed batches of `batch_size` examples, split into parts, in shapes planned from the examples."""
    data, multiple = experiment.config.data, row_shards(experiment.backbone.mesh)
    lengths = token_counts(examples) if data.balance else None
    order = Order(len(examples), batch_size, experiment.config.seed_of("data"), data.shuffle, lengths)
    if parts > 1:
        order = Parts(order, parts)
    if data.packing:
        plan = plan_rows(
            examples,
            order,
            row_multiple=multiple,
            width=experiment.backbone.hidden_size,
            another=_another_shape(experiment),
        )
    else:
        plan = plan_separate(examples, order.batch_size, row_multiple=multiple)
    return Loader(examples, order, plan, experiment.objective.num_words)


def _another_shape(experiment: Experiment) -> float:
    """What compiling for another row count costs on an accelerator, as tokens in every batch of the run.

    On a CPU, where a step takes as long as its compilation, nothing.
    """
    backbone = experiment.backbone
    if backbone.mesh.devices.flat[0].platform == "cpu":
        return 0.0
    # Forward, and backward to the inputs alone.
    flops_per_token = 4 * sum(leaf.size for leaf in jax.tree.leaves(backbone.params))
    tokens = COMPILE_SECONDS * FLOPS_PER_SECOND * backbone.mesh.size / flops_per_token
    return tokens / max(experiment.config.train.steps, 1)


def evaluation_data(experiment: Experiment, examples: list[Encoded]) -> EvaluationData:
    """Batches of one shape, since an evaluation is too short to pay for compiling a second."""
    train = experiment.config.train
    batch_size = min(train.eval_batch_size or train.batch_size, len(examples))
    loader = make_loader(experiment, examples, batch_size)
    plan = dataclasses.replace(loader.plan, rows=loader.plan.rows[-1:])
    return EvaluationData(dataclasses.replace(loader, plan=plan), len(examples))


def encoded_validation(experiment: Experiment, rows: list[dict]) -> list[Encoded]:
    """Validation rows encoded, with the answers that they have."""
    return _encoded(experiment, "validation", rows, required=False)


def _fingerprint(experiment: Experiment, train: Sequence[Encoded], valid: Sequence[Encoded]) -> str:
    """Covers the tokenizer, the template, the labels with their words, and every encoded row."""
    objective = experiment.objective
    what = [
        experiment.encoder.tokens.fingerprint,
        experiment.encoder.template.text,
        objective.label_names,
        objective.label_texts,
    ]
    digest = hashlib.sha256(json.dumps(what).encode())
    for part in (train, valid):
        digest.update(f"{len(part)} examples".encode())
        for example in part:
            for field in dataclasses.fields(Encoded):
                value = getattr(example, field.name)
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
                digest.update(b"|")
    return digest.hexdigest()[:16]
