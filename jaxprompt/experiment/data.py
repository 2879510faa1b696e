"""A run's data: encoded, the shared leading ids taken off, packed into batches."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprompt.config import Config
from jaxprompt.data.cache import AheadCache
from jaxprompt.data.large import LargeOrder
from jaxprompt.data.loader import FreshLoader, Loader
from jaxprompt.data.mixing import Mixture, temperature_weights
from jaxprompt.data.order import Order, Parts
from jaxprompt.data.packing import plan_rows, plan_separate, token_counts
from jaxprompt.data.sources.base import JoinedSource, ListSource
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.fingerprint import fingerprints
from jaxprompt.experiment.fresh import Fresh, augment_of, fresh_of, mixup_of
from jaxprompt.experiment.rows import naming, source_name, training_parts, training_sources, validates, validation_rows
from jaxprompt.machine.files import writing
from jaxprompt.machine.host import free_memory
from jaxprompt.machine.processes import number
from jaxprompt.machine.sharding import held_shards, row_shards
from jaxprompt.metrics.classification import majority
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.hoisting import drop_prefix, hoist_length, shared_length, split_ahead
from jaxprompt.text.labels import UNLABELLED
from jaxprompt.text.templates import check_fields
from jaxprompt.types import Batch

# What one device computes while a program more is compiled, in FLOPs: 5 s of a CPU, 10 s of an accelerator. Roughly, for a
# choice that matters only where it is clear.
FLOPS_OF_COMPILING_ON_CPU = 5 * 1e11
FLOPS_OF_COMPILING = 10 * 3e14
# Examples from which the shapes of batches are planned, where they are not all known.
SAMPLE = 2000


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
      fingerprints: hex digits that identify what a result depends on beside the backbone and the config, part by part.
      majority: validation accuracy of always answering the most frequent training label; None without labels.
      truncated: by "train" and "validation", how many examples lost field text to fit.
    """

    hoisted: tuple[int, ...]
    train: Loader | FreshLoader | None
    validation: EvaluationData | None
    validation_rows: list[dict]
    accumulate: int
    fingerprints: dict[str, str]
    majority: float | None
    truncated: dict[str, int]

    @classmethod
    def load(cls, experiment: Experiment, most: tuple[int, ...] | None = None) -> "TrainingData":
        """Reads and encodes the config's data files.

        Args:
          most: ids of which no more are taken off as shared ones, where there are examples of other members.
        """
        config = experiment.config
        if config.data.train is None and config.train.steps:
            raise InputError("data.train is not set: name a file, or set train.steps=0 to score without training")
        if config.data.train is None and not validates(config):
            raise InputError("neither data.train nor data.validation is set: name a file")
        drawn = None if config.data.train is None else TrainingExamples.of(experiment)
        train = [] if drawn is None else drawn.examples
        valid_rows = validation_rows(config) if validates(config) else []
        valid = encoded_validation(experiment, valid_rows) if valid_rows else []
        # Before the shared ids are taken off: they count too.
        found = fingerprints(experiment, train, valid, "" if drawn is None else drawn.fingerprint)
        if drawn is not None and drawn.fresh is not None:
            fresh = drawn.fresh.shared_ids()
            most = fresh if most is None else most[: shared_length([fresh, most])]
        hoisted, (train, valid) = hoist(experiment, [train, valid], most)
        if drawn is None or drawn.fresh is None:
            train, valid = split(experiment, [train, valid], hoisted)
        most_frequent = None
        if experiment.objective.label_names and valid:
            known = (
                [e.answers["label"] for e in part if e.answers["label"] != UNLABELLED]
                for part in (valid, train or valid)
            )
            most_frequent = majority(*known)
        loader = None
        if drawn is not None:
            loader = training_loader(experiment, drawn, train, batch_size_for(config, sum(drawn.sizes)), len(hoisted))
        return cls(
            hoisted=hoisted,
            train=loader,
            validation=evaluation_data(experiment, valid) if valid else None,
            validation_rows=valid_rows,
            accumulate=config.train.accumulate,
            fingerprints=found,
            majority=most_frequent,
            truncated={
                name: count
                for name, part in (("train", train), ("validation", valid))
                if (count := sum(example.truncated for example in part))
            },
        )

    def cached(self, experiment: Experiment, folder: Path) -> "TrainingData":
        """Returns the data with empty caches of what is ahead of the prompt, as `data.cache` asks for.

        Args:
          folder: where they are kept under `disk`.

        Raises:
          InputError: there is nothing ahead of the prompt, or more than the machine's memory holds.
        """
        how, backbone = experiment.config.data.cache, experiment.backbone
        if how is None:
            return self

        def with_cache(loader, name):
            apart = isinstance(loader, Loader) and loader.examples[0].source is not None
            if not apart or (backbone.seq2seq and not experiment.source_is_bare):
                raise InputError(
                    "data.cache keeps text before an example's first soft token, of a decoder, or all that an encoder reads "
                    "beside a decoder's soft tokens ({decoder}{soft:N}), and there is none that is computed by itself: leave "
                    "it out, or see data.ahead"
                )
            tokens = sum(len(example.source) for example in loader.examples)
            size = tokens * sum(map(math.prod, backbone.ahead_shapes)) * np.dtype(backbone.dtype).itemsize
            if how == "memory" and size > free_memory():
                raise InputError(
                    f"data.cache=memory would take {size / 1e9:.1f} GB for {tokens} tokens of {name}, there are "
                    f"{free_memory() / 1e9:.1f}: set it to disk"
                )
            kept = folder / str(number()) / name if how == "disk" else None
            with writing(folder):
                cache = AheadCache.empty(loader.examples, backbone.ahead_shapes, backbone.dtype, kept)
            return dataclasses.replace(loader, cache=cache)

        train = with_cache(self.train, "train") if self.train is not None else None
        valid = self.validation
        if valid is not None:
            valid = dataclasses.replace(valid, loader=with_cache(valid.loader, "validation"))
        return dataclasses.replace(self, train=train, validation=valid)

    def fill_caches(self, look_ahead: Callable[[Batch], tuple[Any, ...]]) -> int:
        """Computes what the caches hold; returns how many bytes that is.

        Args:
          look_ahead: gives what of a batch's `source` is `Batch.ahead`.
        """
        loaders = [self.train, None if self.validation is None else self.validation.loader]
        caches = [loader for loader in loaders if isinstance(loader, Loader) and loader.cache is not None]
        for loader in caches:
            whole = dataclasses.replace(loader.plan, held=None)
            for batch in dataclasses.replace(loader, cache=None, plan=whole).eval_batches():
                loader.cache.fill(batch, [np.asarray(part) for part in look_ahead(batch)])
        return sum(loader.cache.nbytes for loader in caches)

    @property
    def batch_size(self) -> int:
        """Training examples in a step: `train.batch_size`, or all where there are not so many."""
        return self.train.batch_size * self.accumulate

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


@dataclass(frozen=True)
class TrainingExamples:
    """The training rows of a run, encoded.

    Attributes:
      examples: all of them; of a stream, and where texts change by epoch, the first that are drawn, as they are drawn.
      sizes: rows of each part that is drawn from by weight; of all, where there is one.
      fresh: encodes them when they are drawn; None: they are all in `examples`.
      blocks: as `Source.blocks`.
      fingerprint: of the rows of a stream.
    """

    examples: list[Encoded]
    sizes: tuple[int, ...]
    fresh: Fresh | None = None
    blocks: tuple[int, ...] | None = None
    fingerprint: str = ""

    @classmethod
    def of(cls, experiment: Experiment) -> "TrainingExamples":
        """Reads and encodes what a config asks for. Raises InputError, naming the file, for a row that cannot be used."""
        config = experiment.config
        if config.data.stream:
            sources = training_sources(config)
            source = sources[0] if len(sources) == 1 else JoinedSource("data.train", sources)
            if len(sources) > 1 and source.blocks is not None:
                raise InputError("data.weights are not for streams of Parquet files (write them as .jsonl)")
            with naming(config, "train"):
                check_fields(experiment.encoder.template, source[0])
            drawn = cls([], tuple(map(len, sources)), fresh_of(experiment, source), source.blocks, source.fingerprint)
            return dataclasses.replace(drawn, examples=drawn.first(config, SAMPLE))
        parts = training_parts(config)
        rows, sizes = list(itertools.chain.from_iterable(parts)), tuple(map(len, parts))
        # Each row is looked at before the first step, however it is changed later.
        drawn = cls(_encoded(experiment, "train", rows), sizes)
        if augment_of(config, experiment.encoder) is not None:
            drawn = dataclasses.replace(
                drawn, fresh=fresh_of(experiment, ListSource(source_name(config, "train"), rows))
            )
        return drawn

    def order(self, config: Config, batch_size: int, lengths: np.ndarray | None = None) -> Order | Mixture:
        """Which of them make up each batch."""
        seed, shuffle = config.seed_of("data"), config.data.shuffle
        if len(self.sizes) > 1:
            weights = config.data.weights or temperature_weights(self.sizes, config.data.temperature)
            kind = LargeOrder if config.data.stream else Order
            # Of each part another seed, or files of one length would be shuffled alike.
            seeds = np.random.SeedSequence(seed).generate_state(len(self.sizes)).tolist()
            orders = (kind(size, batch_size, own, shuffle) for size, own in zip(self.sizes, seeds, strict=True))
            return Mixture(tuple(orders), tuple(weights), batch_size)
        if config.data.stream:
            return LargeOrder(self.sizes[0], batch_size, seed, shuffle, blocks=self.blocks)
        return Order(self.sizes[0], batch_size, seed, shuffle, lengths)

    def first(self, config: Config, count: int) -> list[Encoded]:
        """The first examples that are drawn."""
        numbers, epochs = self.order(config, min(count, sum(self.sizes))).drawn(0)
        return [self.fresh(number, epoch) for number, epoch in zip(numbers.tolist(), epochs.tolist(), strict=True)]


def hoist(
    experiment: Experiment, sets: Sequence[list[Encoded]], most: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], list[list[Encoded]]]:
    """Takes the leading ids that all examples of all sets share off them, where the backbone can share them.

    Args:
      most: ids of which no more are taken, where there are examples that are not among the sets.
    """
    examples = [example for part in sets for example in part]
    if not (experiment.config.data.share_prefix and examples):
        return (), list(sets)
    length = hoist_length(experiment.encoder, examples)
    shared = tuple(int(i) for i in examples[0].ids[:length])
    if most is not None:
        length = shared_length([shared, most])
    return shared[:length], [[drop_prefix(example, length) for example in part] for part in sets]


def split(experiment: Experiment, sets: Sequence[list[Encoded]], hoisted: Sequence[int]) -> list[list[Encoded]]:
    """Takes the text before the first soft token of each example apart, where it need not be gone back through."""
    asked, sets, vocab_size = experiment.config.data.ahead, list(sets), experiment.encoder.vocab_size
    # Behind soft tokens that are shared, all text depends on them.
    if asked is False or not experiment.backbone.causal or any(token >= vocab_size for token in hoisted):
        return sets
    apart = [split_ahead(part, vocab_size) for part in sets]
    examples = [example for part in apart if part is not None for example in part]
    if any(part is None for part in apart) or not any(len(example.source) for example in examples):
        return sets
    if not experiment.learns_rows_alone:
        return sets
    # Two passes read the weights twice.
    ahead = sum(len(example.source) for example in examples)
    worth = ahead > sum(len(example.ids) for example in examples)
    return apart if asked or worth else sets


def batch_size_for(config: Config, rows: int) -> int:
    """Examples in a batch of a data set of so many rows. Raises InputError for parts of several sizes."""
    size, parts = config.train.batch_size, config.train.accumulate
    if size % parts:
        raise InputError(f"train.batch_size {size} does not divide into train.accumulate {parts} parts: change one")
    # A batch of all rows has the gradient of any larger one, which would only hold them again and again.
    return min(size, -(-rows // parts) * parts)


def training_loader(
    experiment: Experiment, drawn: TrainingExamples, examples: list[Encoded], batch_size: int, hoisted: int
) -> Loader | FreshLoader:
    """A run's training batches; `examples` are those of `drawn` without `hoisted` ids."""
    config, parts = experiment.config, experiment.config.train.accumulate
    if drawn.fresh is None:
        lengths = token_counts(examples) if config.data.balance else None
        return make_loader(experiment, examples, drawn.order(config, batch_size, lengths), parts)
    fresh = dataclasses.replace(drawn.fresh, hoisted=hoisted)
    # Planned from the first that are drawn, since no more is known.
    if not config.data.stream:
        examples = dataclasses.replace(drawn, fresh=fresh).first(config, SAMPLE)
    sample = Order(len(examples), min(batch_size, len(examples)), shuffle=False)
    planned = make_loader(experiment, examples, sample, parts if sample.batch_size % parts == 0 else 1)
    order = _in_parts(drawn.order(config, batch_size), parts)
    return FreshLoader(
        fresh, order, planned.plan, experiment.objective.num_words, config.data.workers, mixup_of(experiment)
    )


def make_loader(experiment: Experiment, examples: list[Encoded], order: Order | Mixture, parts: int = 1) -> Loader:
    """Packed batches, split into parts, in shapes planned from the examples; of several processes each packs its own rows."""
    mesh = experiment.backbone.mesh
    multiple = row_shards(mesh)
    order = _in_parts(order, parts)
    if experiment.config.data.packing:
        plan = plan_rows(
            examples,
            order,
            row_multiple=multiple,
            width=experiment.backbone.hidden_size,
            another=_another_shape(experiment),
        )
    else:
        plan = plan_separate(examples, order.batch_size, row_multiple=multiple)
    plan = dataclasses.replace(plan, held=held_shards(mesh))
    return Loader(examples, order, plan, experiment.objective.num_words)


def _in_parts(order: Order | Mixture, parts: int) -> Order | Mixture | Parts:
    return Parts(order, parts) if parts > 1 else order


def _another_shape(experiment: Experiment) -> float:
    """What compiling for another row count costs, as tokens in every batch of the run."""
    backbone = experiment.backbone
    # Forward, and backward to the inputs alone.
    flops_per_token = 4 * sum(leaf.size for leaf in jax.tree.leaves(backbone.params))
    on_cpu = backbone.mesh.devices.flat[0].platform == "cpu"
    flops = FLOPS_OF_COMPILING_ON_CPU if on_cpu else FLOPS_OF_COMPILING
    tokens = flops * backbone.mesh.size / flops_per_token
    return tokens / max(experiment.config.train.steps, 1)


def evaluation_data(experiment: Experiment, examples: list[Encoded]) -> EvaluationData:
    """Batches of one shape, since an evaluation is too short to pay for compiling a second."""
    train = experiment.config.train
    batch_size = min(train.eval_batch_size or train.batch_size, len(examples))
    data = experiment.config.data
    lengths = token_counts(examples) if data.balance else None
    order = Order(len(examples), batch_size, experiment.config.seed_of("data"), data.shuffle, lengths)
    loader = make_loader(experiment, examples, order)
    # Every process has the scores of all examples, by the numbers that the rows say.
    plan = dataclasses.replace(loader.plan, rows=loader.plan.rows[-1:], held=None)
    return EvaluationData(dataclasses.replace(loader, plan=plan), len(examples))


def encoded_validation(experiment: Experiment, rows: list[dict]) -> list[Encoded]:
    """Validation rows encoded, with the answers that they have."""
    return _encoded(experiment, "validation", rows, required=False)
