"""16 hex digits that identify all that a result depends on beside the backbone and the config."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from jaxprompt.experiment.build import Experiment
from jaxprompt.text.encoded import Encoded

# What tells examples apart. Nothing is mixed into those that are encoded once, what is read follows from the template, and
# owners are given later.
_DERIVED = ("mix_ids", "mix", "read", "source_read", "owner")
_IDENTITY = tuple(field.name for field in dataclasses.fields(Encoded) if field.name not in _DERIVED)


def fingerprint(experiment: Experiment, train: Sequence[Encoded], valid: Sequence[Encoded], stream: str) -> str:
    """Covers the tokenizer, the template, the labels with their words, and every encoded row; of a stream, its files."""
    objective = experiment.objective
    what = [
        experiment.encoder.tokens.fingerprint,
        experiment.encoder.template.text,
        objective.label_names,
        objective.label_texts,
    ]
    digest = hashlib.sha256(f"{json.dumps(what)}{stream}".encode())
    for part in (train, valid):
        digest.update(f"{len(part)} examples".encode())
        for example in part:
            for name in _IDENTITY:
                value = getattr(example, name)
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
                digest.update(b"|")
    return digest.hexdigest()[:16]


def fingerprint_of(parts: Iterable[str]) -> str:
    """That of several together, in their order."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
