"""The rows of data that a config asks for."""

import contextlib
from collections.abc import Iterator

import numpy as np

from jaxprompt.config import Config
from jaxprompt.data.select import selected
from jaxprompt.data.sources import Reading, open_source, read_rows
from jaxprompt.errors import InputError
from jaxprompt.text.labels import LabelSet, by_label, infer_labels


def training_rows(config: Config) -> list[dict]:
    """The training rows that the config asks for: the first N, or a few of each label drawn by the seed."""
    rows = _rows(config, "train")
    if config.data.per_label is None:
        return rows
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
    return [rows[n] for n in sorted(chosen)]


def validates(config: Config) -> bool:
    """Whether the config asks for validation rows."""
    return config.data.validation is not None or config.data.holdout is not None


def validation_rows(config: Config) -> list[dict]:
    """The validation rows that the config asks for. Raises InputError where it names none."""
    if not validates(config):
        raise InputError("the run has no data.validation: name a file with --data")
    return _rows(config, "validation")


def found_labels(config: Config, rows: list[dict]) -> LabelSet:
    """The classes of the label's column: in the order of their numbers where the source of training rows knows them."""
    data = config.data
    # Any other source would be read twice for nothing.
    if isinstance(data.train, str) and data.train.startswith("tfds:"):
        names = open_source(data.train, _reading(config)).label_names or {}
        column = data.rename.get(data.label, data.label)
        if column in names:
            return LabelSet(names[column])
    return infer_labels(rows, data.label)


@contextlib.contextmanager
def naming(config: Config, name: str) -> Iterator[None]:
    """Puts the file before an error in its rows."""
    try:
        yield
    except InputError as error:
        source = getattr(config.data, _named(config, name))
        raise InputError(f"{source if isinstance(source, str) else f'data.{name}'}: {error}") from None


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
    rows = read_rows(getattr(data, _named(config, name)), _reading(config))
    with naming(config, name):
        rows = selected(rows, data.rename, data.where)
        if data.holdout is not None:
            if data.holdout >= len(rows):
                raise InputError(f"data.holdout {data.holdout} leaves none of {len(rows)} rows to train on: lower it")
            rows = rows[: -data.holdout] if name == "train" else rows[-data.holdout :]
    return rows[: getattr(data, f"{name}_rows")]
