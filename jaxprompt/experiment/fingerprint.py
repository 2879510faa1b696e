"""Hex digits that identify all that a result depends on beside the backbone and the config."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.experiment.build import Experiment
from jaxprompt.text.encoded import Encoded

# What tells examples apart. Nothing is mixed into those that are encoded once, what is read follows from the template, and
# owners are given later.
_DERIVED = ("mix_ids", "mix", "read", "source_read", "owner")
_IDENTITY = tuple(field.name for field in dataclasses.fields(Encoded) if field.name not in _DERIVED)


def fingerprints(
    experiment: Experiment, train: Sequence[Encoded], valid: Sequence[Encoded], stream: str
) -> dict[str, str]:
    """16 hex digits for each part, by what messages call it: what others follow from is ahead of them.

    Args:
      stream: that of the files, of training rows that are not all encoded; else empty.
    """
    objective = experiment.objective
    return {
        "tokenizer": experiment.encoder.tokens.fingerprint,
        "template": _digest(experiment.encoder.template.text),
        "set of labels": _digest([objective.label_names, objective.label_texts]),
        "training set": _of_examples(train, stream),
        "validation set": _of_examples(valid, ""),
    }


def fingerprints_of(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Those of several together, in their order."""
    return {name: _digest([part[name] for part in parts]) for name in parts[0]}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _of_examples(examples: Sequence[Encoded], stream: str) -> str:
    digest = hashlib.sha256(f"{stream}{len(examples)} examples".encode())
    for example in examples:
        for name in _IDENTITY:
            value = getattr(example, name)
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
            digest.update(b"|")
    return digest.hexdigest()[:16]
