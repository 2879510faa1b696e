"""The rows of data that a config asks for."""

import contextlib
from collections.abc import Iterator

import numpy as np

from jaxprompt.config import Config
from jaxprompt.data.sources import read_rows
from jaxprompt.errors import InputError
from jaxprompt.machine.packages import in_package
from jaxprompt.objectives.base import column


def training_rows(config: Config) -> list[dict]:
    """The training rows that the config asks for: the first N, or a few of each label drawn by the seed."""
    rows = _rows(config, "train")
    if config.data.per_label is None:
        return rows
    by_label: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_label.setdefault(str(column(row, config.data.label, number + 1, "data.label")), []).append(number)
    rng = np.random.default_rng([config.seed_of("data"), 7])
    few = config.data.per_label
    short = next((label for label, numbers in by_label.items() if len(numbers) < few), None)
    if short is not None:
        raise InputError(f"data.per_label is {few}, but label {short!r} has {len(by_label[short])} rows: lower it")
    chosen = [n for numbers in by_label.values() for n in rng.choice(numbers, few, replace=False)]
    return [rows[n] for n in sorted(chosen)]


def validation_rows(config: Config) -> list[dict]:
    """The validation rows that the config asks for."""
    return _rows(config, "validation")


@contextlib.contextmanager
def naming(config: Config, name: str) -> Iterator[None]:
    """Puts the file before an error in its rows."""
    try:
        yield
    except InputError as error:
        source = getattr(config.data, name)
        raise InputError(f"{source if isinstance(source, str) else f'data.{name}'}: {error}") from None


def _rows(config: Config, name: str) -> list[dict]:
    source = getattr(config.data, name)
    if isinstance(source, str) and source.startswith("memory:"):
        raise InputError(f"data.{name} was given in memory and not kept: pass the rows again, or name a file")
    if isinstance(source, str) and source.startswith("package:"):
        source = in_package(source)
    rows = read_rows(source, config.data.columns)
    return rows[: getattr(config.data, f"{name}_rows")]
