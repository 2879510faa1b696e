"""Using a finished run: scores, answers, text."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxprompt.backbone import Backbone, load_backbone
from jaxprompt.config import Config
from jaxprompt.data.select import selected
from jaxprompt.data.sources import Source
from jaxprompt.data.sources.base import ListSource
from jaxprompt.errors import InputError, within_memory
from jaxprompt.experiment.build import Experiment, build, configured_backbone
from jaxprompt.experiment.data import encoded_validation, evaluation_data, hoist
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS, judged
from jaxprompt.experiment.rows import validation_rows
from jaxprompt.experiment.run_folder import is_run, read_run
from jaxprompt.inference.generate import generate, naming_source, rows_of
from jaxprompt.machine.sharding import row_sharding
from jaxprompt.objectives import OBJECTIVES
from jaxprompt.prompts import Prompt
from jaxprompt.scoring.evaluate import Evaluation, evaluate, make_eval_step, refusal
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.values import text_value


def load_run(
    run_dir: str | Path, backbone: Backbone | None = None, overrides: Sequence[str] = ()
) -> tuple[Experiment, Prompt]:
    """The parts and the best prompt of a run.

    Args:
      backbone: loaded already; default: the run's.
      overrides: `key=value` changes of where and how it is computed (`config.MACHINE_KEYS`), for another machine.

    Raises:
      InputError: the folder is no finished run, or cannot be run on this machine.
    """
    config, prompt = read_run(run_dir, overrides)
    return _built(config, prompt, backbone), prompt


def _built(config: Config, prompt: Prompt, backbone: Backbone | None) -> Experiment:
    experiment = build(config, backbone, label_names=prompt.info["labels"])
    prompt.check(experiment.backbone)
    return experiment


def _to_write(config: Config) -> Config:
    """The config with layers one by one, unless it says otherwise: every token that is written reads all weights, of which a
    loop over the layers would make a copy first."""
    return config.model_copy(update={"unroll": True}) if config.unroll is None else config


def score(experiment: Experiment, prompt: Prompt, examples: list[Encoded]) -> Evaluation:
    """Scores encoded examples under a prompt, in their order; raises InputError for scores that are not finite."""
    hoisted, (examples,) = hoist(experiment, [examples])
    step = make_eval_step(experiment.forward(hoisted))
    data = evaluation_data(experiment, examples)
    conditioning, head = jax.tree.map(jnp.asarray, (prompt.conditioning, prompt.head))
    sharding = row_sharding(experiment.backbone.mesh)
    with within_memory("set mesh.fsdp or mesh.tensor, or use a machine with more"):
        found = evaluate(
            partial(step, conditioning, head),
            data.batches(),
            lambda batch: jax.device_put(batch, sharding),
            data.size,
        )
    if found.not_finite:
        raise refusal(found, experiment.backbone.dtype)
    return found


def evaluate_run(
    run_dir: str | Path,
    data: str | None = None,
    backbone: Backbone | None = None,
    overrides: Sequence[str] = (),
    predictions: str | Path | None = None,
) -> dict:
    """Figures of a run's prompt on its validation data, or on the labelled rows of `data`; more as in `load_run`.

    Args:
      predictions: where a line for each example is written; default: in the run's folder, if the data is its own.

    Returns:
      As `experiment.final.judged`.
    """
    config, prompt = read_run(run_dir, overrides)
    if OBJECTIVES[config.objective.type].writes and config.evaluation.metrics:
        config = _to_write(config)
    experiment = _built(config, prompt, backbone)
    figures = figures_of(config, experiment.objective)
    if data is not None:
        used = config.data.model_copy(update={"validation": data, "validation_rows": None, "holdout": None})
        experiment = dataclasses.replace(experiment, config=config.model_copy(update={"data": used}))
    rows = validation_rows(experiment.config)
    found = score(experiment, prompt, encoded_validation(experiment, rows))
    if predictions is None and data is None:
        predictions = Path(run_dir) / PREDICTIONS
    conditioning = jax.tree.map(jnp.asarray, prompt.conditioning)
    return judged(experiment, figures, found, conditioning, rows, None if predictions is None else Path(predictions))


def predict_run(
    run_dir: str | Path,
    texts: Sequence[str | dict],
    backbone: Backbone | None = None,
    overrides: Sequence[str] = (),
) -> list[dict]:
    """Answers of a run's prompt.

    Args:
      backbone, overrides: as in `load_run`.
      texts: rows with the template's fields, or plain texts for its only field.

    Returns:
      One dict per text: `input`, `prediction` (a label, a number, or the written text) and, for labels, `probability`.
    """
    experiment, prompt = load_run(run_dir, backbone, overrides)
    return predict(experiment, prompt, texts)


def predict(experiment: Experiment, prompt: Prompt, texts: Sequence[str | dict]) -> list[dict]:
    """As `predict_run`, for parts that are loaded already."""
    fields = experiment.encoder.template.fields
    with naming_source(texts):
        if isinstance(texts, Source):
            texts = ListSource(texts.name, selected(texts, experiment.config.data.rename, {}))
        rows = rows_of(texts, fields)
        shown = [
            " | ".join(text_value(row, field, number) for field in fields if field in row)
            for number, row in enumerate(rows, 1)
        ]
        examples = [] if experiment.objective.writes else experiment.encode(rows, labelled=False)
    if experiment.objective.writes:
        written = generate(experiment.backbone, texts if isinstance(texts, Source) else rows, prompt)
        return [{"input": i, "prediction": w.strip()} for i, w in zip(shown, written, strict=True)]
    found = score(experiment, prompt, examples)
    answers = experiment.objective.present(found.outputs)
    shown_of = experiment.objective.shown
    return [{"input": text, **shown_of(row, answer)} for text, row, answer in zip(shown, rows, answers, strict=True)]


def generate_from(
    source: str,
    texts: Sequence[str | dict],
    dtype: str = "float32",
    quantize: str | None = None,
    overrides: Sequence[str] = (),
    **options,
) -> list[str]:
    """Continues texts with a run's backbone and prompt, or with a model alone; options as in `generate`.

    Args:
      dtype, quantize: as in `load_backbone`, of a model.
      overrides: as in `load_run`, of a run.
    """
    if is_run(source):
        config, prompt = read_run(source, overrides)
        if config.objective.type != "generation":
            raise InputError(f"run {source!r} answers with labels: use `jaxprompt predict`")
        return generate(configured_backbone(_to_write(config)), texts, prompt, **options)
    if overrides:
        raise InputError(f"{overrides[0]!r} is for a run, {source!r} is a model: leave it out")
    return generate(load_backbone(source, dtype=dtype, quantize=quantize, unroll=True), texts, **options)
