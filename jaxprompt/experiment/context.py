"""Labelled training examples that a prompt is made of."""

import dataclasses

import numpy as np

from jaxprompt.config import Config
from jaxprompt.errors import InputError
from jaxprompt.experiment.rows import naming, training_rows
from jaxprompt.methods.cpt import Context
from jaxprompt.objectives import Objective
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.templates import Soft, Template


def context_of(config: Config, objective: Objective, encoder: RowEncoder, count: int, separator: str) -> Context:
    """Training rows drawn by the seed, each as the encoder lays it out, with its answer and a text behind it.

    Raises InputError for fewer rows, a template with soft tokens elsewhere than at its start, or an objective that answers
    with no text.
    """
    pieces = encoder.template.pieces
    if not isinstance(pieces[0], Soft) or sum(isinstance(piece, Soft) for piece in pieces) > 1:
        raise InputError(
            f"template {encoder.template.text!r} has soft tokens elsewhere than at its start, where examples come before all "
            "else: put {soft:N} there, once"
        )
    if config.data.stream:
        raise InputError("data.stream reads no rows ahead, of which the prompt is made: set it to false")
    rows = training_rows(config)
    if len(rows) < count:
        raise InputError(f"method.examples is {count}, and there are {len(rows)} training rows: lower it")
    plain = dataclasses.replace(
        encoder, template=Template(encoder.template.text, pieces[1:]), marks=True, scores_eos=False
    )
    behind = encoder.tokens.continuation(separator)
    ids, read, labels = [], [], []
    drawn = np.random.default_rng([config.seed_of("start"), 11]).choice(len(rows), count, replace=False)
    with naming(config, "train"):
        for example, number in enumerate(drawn.tolist(), 1):
            trunk = plain.trunk(rows[number], number=number + 1)
            answer = objective.answered(rows[number], number + 1, plain)
            ids += [*trunk.ids, *answer, *behind]
            read += [*trunk.read, *[False] * (len(answer) + len(behind))]
            labels += [*[0] * len(trunk.ids), *[example] * len(answer), *[0] * len(behind)]
    return Context(tuple(map(int, ids)), tuple(read), tuple(labels))
