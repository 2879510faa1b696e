"""Rows that are as long as they may be, where a run's own are not at hand: for their shapes alone."""

from collections.abc import Mapping
from typing import Any

from jaxprompt.config import Config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment, build, turns_of
from jaxprompt.experiment.data import hoist
from jaxprompt.text.chat import parse_turns
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.templates import parse_template

# Of an example with a text and a target, the target has this share of the tokens.
TARGET_SHARE = 0.5
# What of a config's data says which rows are taken, and from where.
_SELECTS = (
    "columns",
    "pattern",
    "per_label",
    "holdout",
    "weights",
    "temperature",
    "train_rows",
    "validation_rows",
    "cache",
)
_LABELS = ("0", "1")


def made_up(config: Config, backbone: Any, rows: int, tokens: int | None) -> Experiment:
    """Returns an experiment over `rows` examples, each of as many tokens as an example may have.

    Args:
      backbone: of shapes or weights.
      rows: training examples, each in a row of its own, and all in one batch. As many are to be validated on as an
        evaluation batch has, if any.
      tokens: of an example, those that all share left out; None: `data.max_length`, those among them.

    Raises:
      InputError: an objective whose answers are columns of the rows, or more tokens than the model has positions for.
    """
    options = config.objective
    if options.type == "choices":
        raise InputError("objective.type 'choices' takes its candidates from the rows: plan it where they are")
    columns = _columns(config)
    row: dict[str, Any] = {**dict.fromkeys(columns, "a"), config.data.target: "a"}
    labels = [0.0] if options.type == "regression" else list(getattr(options, "labels", None) or _LABELS)
    changed = {
        **dict.fromkeys(_SELECTS),
        **{
            "rename": {},
            "where": {},
            "stream": False,
            "download": False,
            "packing": False,
            "augment": type(config.data.augment)(),
        },
    }

    def with_rows(row: Mapping[str, Any], limit: int | None) -> Config:
        train, validates = config.train, config.data.validation is not None or config.data.holdout is not None
        each = [{**row, config.data.label: label} for label in labels]
        found = [each[number % len(each)] for number in range(max(rows, train.eval_batch_size or 0))]
        data = {"train": found[:rows], "max_length": limit}
        data["validation"] = found[: train.eval_batch_size or rows] if validates else None
        train = train.model_copy(update={"batch_size": rows})
        return config.model_copy(update={"data": config.data.model_copy(update={**changed, **data}), "train": train})

    def build_with(limit: int | None) -> Experiment:
        encoder = build(with_rows(row, limit), backbone).encoder
        filled = {**row, **dict.fromkeys(columns, "a " * encoder.max_length)}
        if options.type == "generation":
            room = encoder.max_length - len(encoder.trunk(row).ids)
            filled[config.data.target] = _text(encoder, int(TARGET_SHARE * room) if columns else room)
        return build(with_rows(filled, limit), backbone)

    if tokens is None:
        return build_with(config.data.max_length)
    # What all examples share is known when they are laid out.
    experiment = build_with(tokens)
    shared, _ = hoist(experiment, [experiment.encode(experiment.config.data.train)])
    return build_with(tokens + len(shared)) if shared else experiment


def _columns(config: Config) -> list[str]:
    """The columns that a template or a chat names."""
    parts = [parse_template(config.template)] if config.chat is None else parse_turns(turns_of(config))
    return [name for part in parts for name in part.fields]


def _text(encoder: RowEncoder, tokens: int) -> str:
    """A text of so many tokens as a target, or a few less."""
    words = max(tokens, 1)
    while words > 1 and (count := len(encoder.target_ids("a " * words))) > tokens:
        words = max(min(words - 1, words * tokens // count), 1)
    return "a " * words
