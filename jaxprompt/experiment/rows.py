"""The rows of data that a config asks for."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxprompt.config import Config
from jaxprompt.data.select import SelectedSource, selected
from jaxprompt.data.sources import Reading, Source, names_files, open_source, read_rows
from jaxprompt.errors import InputError
from jaxprompt.text.labels import LabelSet, by_label, infer_labels


def training_rows(config: Config) -> list[dict]:
    """The training rows that the config asks for: the first N, or a few of each label drawn by the seed."""
    return list(itertools.chain.from_iterable(training_parts(config)))


def training_parts(config: Config) -> list[list[dict]]:
    """The training rows, those of each file apart where the config weighs them; else all together.

    Raises InputError for a stream, whose rows are not all held.
    """
    if config.data.stream:
        raise InputError("data.stream: the rows are not all read, which this needs (set it to false)")
    if mixes(config):
        return [_selected(config, reference) for reference in _mixed(config)]
    rows = _rows(config, "train")
    if config.data.per_label is None:
        return [rows]
    given = getattr(config.objective, "labels", None)
    with naming(config, "train"):
        labels = LabelSet(tuple(given)) if given else found_labels(config, rows)
        numbers_of = by_label(rows, config.data.label, labels)
    rng = np.random.default_rng([config.seed_of("data"), 7])
    few = config.data.per_label
    short = next((label for label, numbers in numbers_of.items() if len(numbers) < few), None)
    if short is not None:
        raise InputError(f"data.per_label is {few}, but label {short!r} has {len(numbers_of[short])} rows: lower it")
    chosen = [n for numbers in numbers_of.values() for n in rng.choice(numbers, few, replace=False)]
    return [[rows[n] for n in sorted(chosen)]]


def training_sources(config: Config) -> list[Source]:
    """The sources of a stream, by number: those of each file apart where the config weighs them; else one."""
    data = config.data
    for key in ("per_label", "holdout"):
        if getattr(data, key) is not None:
            raise InputError(f"data.{key} needs all rows at once: set data.stream to false, or leave it out")
    how = dataclasses.replace(_reading(config), lazy=True)
    references = _mixed(config) if mixes(config) else [data.train]
    return [
        SelectedSource(open_source(reference, how), data.rename, data.where, data.train_rows)
        for reference in references
    ]


def mixes(config: Config) -> bool:
    """Whether the files of data.train are drawn from by weights."""
    return config.data.weights is not None or config.data.temperature is not None


def _mixed(config: Config) -> list[str]:
    """The files that are weighed."""
    data = config.data
    if data.weights is not None and data.temperature is not None:
        raise InputError("data.weights and data.temperature both say how much of each file is drawn: leave one out")
    if not names_files(data.train) or len(data.train) < 2:
        raise InputError("data.weights and data.temperature are for several files: list them in data.train")
    if data.weights is not None and len(data.weights) != len(data.train):
        raise InputError(f"data.weights has {len(data.weights)} numbers for {len(data.train)} files: give one to each")
    for key in ("train_rows", "per_label", "holdout"):
        if getattr(data, key) is not None:
            raise InputError(f"data.{key} is for one set of rows, not for weighed files: leave it out")
    return data.train


def validates(config: Config) -> bool:
    """Whether the config asks for validation rows."""
    return config.data.validation is not None or config.data.holdout is not None


def validation_rows(config: Config) -> list[dict]:
    """The validation rows that the config asks for. Raises InputError where it names none."""
    if not validates(config):
        raise InputError("the run has no data.validation: name a file with --data")
    return _rows(config, "validation")


def found_labels(config: Config, rows: list[dict] | None = None) -> LabelSet:
    """The classes of the label's column: in the order of their numbers where the source of training rows knows them.

    Args:
      rows: the training rows, if they are read.
    """
    data = config.data
    # Any other source would be read twice for nothing.
    if isinstance(data.train, str) and data.train.startswith(("tfds:", "hf:")):
        names = open_source(data.train, _reading(config)).label_names or {}
        column = data.rename.get(data.label, data.label)
        if column in names:
            return LabelSet(names[column])
    if data.stream:
        raise InputError("objective.labels is not set, and a stream is not read through to find them: name them")
    return infer_labels(training_rows(config) if rows is None else rows, data.label)


@contextlib.contextmanager
def naming(config: Config, name: str) -> Iterator[None]:
    """Puts the file before an error in its rows."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source_name(config, name)}: {error}") from None


def source_name(config: Config, name: str) -> str:
    """What errors call the source of "train" or "validation"."""
    source = getattr(config.data, _named(config, name))
    return source if isinstance(source, str) else f"data.{name}"


def _reading(config: Config) -> Reading:
    data = config.data
    return Reading(data.columns, data.encoding, data.quotes, data.pattern, data.dir, data.download)


def _named(config: Config, name: str) -> str:
    """The key that names the source of "train" or "validation"."""
    return "train" if config.data.holdout is not None else name


def _rows(config: Config, name: str) -> list[dict]:
    data = config.data
    if data.holdout is not None and (data.validation is not None or data.train is None):
        raise InputError(
            "data.holdout takes rows of data.train in place of data.validation: name data.train, and not both"
        )
    rows = _selected(config, getattr(data, _named(config, name)), name)
    if data.holdout is not None:
        with naming(config, name):
            if data.holdout >= len(rows):
                raise InputError(f"data.holdout {data.holdout} leaves none of {len(rows)} rows to train on: lower it")
        rows = rows[: -data.holdout] if name == "train" else rows[-data.holdout :]
    return rows[: getattr(data, f"{name}_rows")]


def _selected(config: Config, reference: Any, name: str = "train") -> list[dict]:
    rows = read_rows(reference, _reading(config))
    with naming(config, name):
        return selected(rows, config.data.rename, config.data.where)
