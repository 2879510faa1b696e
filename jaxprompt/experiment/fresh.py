"""Examples that are encoded when they are drawn: of a stream, or with texts that change by epoch."""

from dataclasses import dataclass

from jaxprompt.config import Config
from jaxprompt.data.augment import CHANGES, Augment
from jaxprompt.data.mixup import Mixup
from jaxprompt.data.sources import Source
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment
from jaxprompt.objectives import Objective
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.hoisting import drop_prefix, shared_length


@dataclass(frozen=True)
class Fresh:
    """Encodes a row of a number for an epoch. It may be sent to other processes.

    Attributes:
      rows: by number.
      encoders: by templates that mean the same; the first is the run's.
      augment: what changes; None: nothing does.
      hoisted: how many leading ids all examples share, which are taken off.
    """

    rows: Source
    objective: Objective
    encoders: tuple[RowEncoder, ...]
    augment: Augment | None
    hoisted: int = 0

    def __call__(self, number: int, epoch: int) -> Encoded:
        row = self.rows[number]
        with self.rows.naming():
            answer = self.objective.answer(row, number + 1)
            encoder = self.encoders[0]
            if self.augment is not None:
                row = self.augment.row(row, number, epoch)
                encoder = self.encoders[self.augment.choice(len(self.encoders), number, epoch)]
            example = self.objective.encode(row, answer, encoder, number + 1)
        return drop_prefix(example, self.hoisted)

    def shared_ids(self) -> tuple[int, ...]:
        """Ids that every example starts with, whatever is in it, and the last of which no example needs to score."""
        if not self.encoders[0].causal:
            return ()
        heads = [encoder.layout.fixed_head(encoder.tokens) for encoder in self.encoders]
        return tuple(heads[0][: max(shared_length(heads) - 1, 0)])


def augment_of(config: Config, encoder: RowEncoder) -> Augment | None:
    """What the config changes; None: nothing. Raises InputError where it would change labels or targets."""
    options = config.data.augment
    changes = {name: getattr(options, name) for name in CHANGES}
    if not (any(changes.values()) or options.alternatives or options.templates or options.mixup):
        return None
    fields = tuple(dict.fromkeys(encoder.template.fields))
    columns = tuple(options.columns) if options.columns is not None else fields
    kept = (config.data.label, config.data.target, *getattr(config.objective, "choices", ()))
    for column in (*columns, *options.alternatives):
        if column in kept:
            raise InputError(f"data.augment would change {column!r}, which examples are answered by: leave it out")
        if column not in fields:
            raise InputError(
                f"data.augment names {column!r}, which is no field of the template: its fields are {fields}"
            )
    return Augment(columns, changes, options.span, options.mask_text, options.alternatives, config.seed_of("data"))


def fresh_of(experiment: Experiment, rows: Source) -> Fresh:
    """How a run's training rows are encoded when they are drawn."""
    augment = augment_of(experiment.config, experiment.encoder)
    encoders = (experiment.encoder, *experiment.variants)
    return Fresh(rows, experiment.objective.for_rows(), encoders, augment)


def mixup_of(experiment: Experiment) -> Mixup | None:
    """How the config mixes examples; None: not. Raises InputError where the objective has no losses to mix."""
    alpha = experiment.config.data.augment.mixup
    if alpha is None:
        return None
    if not experiment.objective.mixes:
        raise InputError(
            f"data.augment.mixup mixes whole texts, not what {experiment.objective.name} scores in them: use a classifier or "
            "similarity, or leave it out"
        )
    special = tuple(experiment.backbone.tokenizer.all_special_ids)
    return Mixup(alpha, experiment.encoder.vocab_size, special, experiment.config.seed_of("data"))
