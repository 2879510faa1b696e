"""A run's data: encoded, the shared leading ids taken off, packed into batches."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxprompt.data.loader import Loader
from jaxprompt.data.order import Order
from jaxprompt.data.packing import plan_rows, plan_separate, token_counts
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment, naming, training_rows, validation_rows
from jaxprompt.machine.sharding import row_shards
from jaxprompt.metrics import figures as metrics
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.hoisting import drop_prefix, hoist_length
from jaxprompt.text.templates import check_fields


@dataclass(frozen=True)
class EvaluationData:
    """Encoded examples, as batches."""

    loader: Loader
    size: int

    def batches(self) -> Iterator:
        return self.loader.eval_batches()


@dataclass(frozen=True)
class TrainingData:
    """A run's data: encoded, the shared leading ids taken off, ready to be packed."""

    hoisted: tuple[int, ...]
    train: Loader | None
    validation: EvaluationData | None
    accumulate: int
    fingerprint: str
    majority: float | None

    @classmethod
    def load(cls, experiment: Experiment) -> "TrainingData":
        """Reads and encodes the config's data files."""
        config = experiment.config
        if config.data.train is None and config.train.steps:
            raise InputError("data.train is not set: name a file, or set train.steps=0 to score without training")
        if config.data.train is None and config.data.validation is None:
            raise InputError("neither data.train nor data.validation is set: name a file")
        train = _encoded(experiment, "train", training_rows(config)) if config.data.train is not None else []
        valid = (
            _encoded(experiment, "validation", validation_rows(config)) if config.data.validation is not None else []
        )
        hoisted, (train, valid) = hoist(experiment, [train, valid])
        majority = None
        if experiment.objective.scores_classes and valid:
            majority = metrics.majority([e.label for e in valid], [e.label for e in train or valid])
        loader = None
        if train:
            if config.train.batch_size % config.train.accumulate:
                raise InputError(
                    f"train.batch_size {config.train.batch_size} does not divide into train.accumulate "
                    f"{config.train.accumulate} parts: change one"
                )
            loader = make_loader(experiment, train, config.train.batch_size // config.train.accumulate)
        return cls(
            hoisted=hoisted,
            train=loader,
            validation=evaluation_data(experiment, valid) if valid else None,
            accumulate=config.train.accumulate,
            fingerprint=_fingerprint(train),
            majority=majority,
        )

    def train_batches(self, start_step: int) -> Iterator:
        """Batches from step `start_step` on, without end; lists of them under gradient accumulation."""
        parts = self.train.train_batches(start_step * self.accumulate)
        if self.accumulate == 1:
            yield from parts
        while True:
            yield [next(parts) for _ in range(self.accumulate)]


def _encoded(experiment: Experiment, name: str, rows: list[dict]) -> list[Encoded]:
    check_fields(experiment.encoder.template, rows[0])
    with naming(experiment.config, name):
        return experiment.encode(rows)


def hoist(experiment: Experiment, sets: Sequence[list[Encoded]]) -> tuple[tuple[int, ...], list[list[Encoded]]]:
    """Takes the leading ids that all examples of all sets share off them, where the backbone can share them."""
    examples = [example for part in sets for example in part]
    if not (experiment.config.data.share_prefix and examples):
        return (), list(sets)
    length = hoist_length(experiment.encoder, examples)
    shared = tuple(int(i) for i in examples[0].ids[:length])
    return shared, [[drop_prefix(example, length) for example in part] for part in sets]


def make_loader(experiment: Experiment, examples: list[Encoded], batch_size: int) -> Loader:
    """Packed batches of `batch_size` examples in shapes planned from the examples."""
    data, multiple = experiment.config.data, row_shards(experiment.backbone.mesh)
    lengths = token_counts(examples) if data.balance else None
    order = Order(len(examples), batch_size, experiment.config.seed, data.shuffle, lengths)
    if data.packing:
        plan = plan_rows(examples, order, row_multiple=multiple, width=experiment.backbone.hidden_size)
    else:
        plan = plan_separate(examples, batch_size, row_multiple=multiple)
    return Loader(examples, order, plan, experiment.encoder.num_words)


def evaluation_data(experiment: Experiment, examples: list[Encoded]) -> EvaluationData:
    """Batches of one shape, since an evaluation is too short to pay for compiling a second."""
    train = experiment.config.train
    batch_size = min(train.eval_batch_size or train.batch_size, len(examples))
    loader = make_loader(experiment, examples, batch_size)
    plan = dataclasses.replace(loader.plan, rows=loader.plan.rows[-1:])
    return EvaluationData(dataclasses.replace(loader, plan=plan), len(examples))


def read_validation(experiment: Experiment, source: str | None = None) -> list[Encoded]:
    """Encoded labelled rows of a file, by default of the config's data.validation."""
    config = experiment.config
    if source is not None:
        data = config.data.model_copy(update={"validation": source, "validation_rows": None})
        config = config.model_copy(update={"data": data})
    elif config.data.validation is None:
        raise InputError("the run has no data.validation: name a file with --data")
    return _encoded(dataclasses.replace(experiment, config=config), "validation", validation_rows(config))


def _fingerprint(examples: Sequence[Encoded]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.ids.tobytes() + example.target_ids.tobytes() + bytes([example.label % 251]))
        if example.source is not None:
            digest.update(example.source.tobytes())
    return digest.hexdigest()[:16]
