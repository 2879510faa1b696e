"""Using a finished run: scores, answers, text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.backbone import Backbone, load_backbone
from jaxprompt.config import Config
from jaxprompt.data.select import selected
from jaxprompt.data.sources import Source
from jaxprompt.data.sources.base import ListSource
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.experiment.build import Experiment, configured_backbone, rebuild
from jaxprompt.experiment.data import encoded_validation
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS, judged
from jaxprompt.experiment.rows import validation_rows
from jaxprompt.experiment.run_folder import best_of, is_run, member_folders, read_run, run_config
from jaxprompt.inference.generate import generate, naming_source, rows_of, shown_input
from jaxprompt.inference.score import score_each
from jaxprompt.inference.several import evaluate_several, load_several, predict_several
from jaxprompt.objectives import OBJECTIVES
from jaxprompt.prompts import Prompt, load_prompt
from jaxprompt.scoring.ensemble import HOW, combined


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
    return rebuild(config, prompt, backbone), prompt


def _to_write(config: Config) -> Config:
    """The config with layers one by one, unless it says otherwise: every token that is written reads all weights, of which a
    loop over the layers would make a copy first."""
    return config.model_copy(update={"unroll": True}) if config.unroll is None else config


def evaluate_run(
    run_dir: str | Path,
    data: str | None = None,
    backbone: Backbone | None = None,
    overrides: Sequence[str] = (),
    predictions: str | Path | None = None,
    prompts: Sequence[str | Path] = (),
    ensemble: str | None = None,
) -> dict:
    """Figures of a run's prompt on its validation data, or on the labelled rows of `data`; more as in `load_run`.

    Args:
      prompts, ensemble: as in `predict_run`.
      predictions: where a line for each example is written; default: in the run's folder, if the data is its own.

    Returns:
      As `experiment.final.judged`; of a run of several tasks, as `evaluate_several`.
    """
    whole = run_config(run_dir, overrides)
    if whole.tasks is not None:
        if data is not None or predictions is not None or prompts or ensemble is not None:
            raise InputError(f"run {str(run_dir)!r} is of several tasks: use the folder of one of them, RUN/tasks/NAME")
        return evaluate_several(*load_several(whole, run_dir, backbone, overrides), Path(run_dir))
    config, prompt = best_of(whole, run_dir, overrides)
    if OBJECTIVES[config.objective.type].writes and config.evaluation.metrics:
        config = _to_write(config)
    experiment = rebuild(config, prompt, backbone)
    figures = figures_of(config, experiment.objective)
    if data is not None:
        used = config.data.model_copy(update={"validation": data, "validation_rows": None, "holdout": None})
        experiment = dataclasses.replace(experiment, config=config.model_copy(update={"data": used}))
    rows = validation_rows(experiment.config)
    several = ensemble_of(run_dir, experiment, prompt, prompts, ensemble)
    each = score_each(experiment, several, encoded_validation(experiment, rows))
    found = combined(each, ensemble)
    if predictions is None and data is None and len(several) == 1:
        predictions = Path(run_dir) / PREDICTIONS
    conditioning = jax.tree.map(jnp.asarray, prompt.conditioning)
    summary = judged(experiment, figures, found, conditioning, rows, None if predictions is None else Path(predictions))
    if len(several) > 1:
        alone = [one.metrics(figures.outputs)[figures.first] for one in each]
        summary["ensemble"] = {"how": ensemble or HOW[0], "prompts": len(several), figures.first: alone}
    return summary


def predict_run(
    run_dir: str | Path,
    texts: Sequence[str | dict],
    backbone: Backbone | None = None,
    overrides: Sequence[str] = (),
    prompts: Sequence[str | Path] = (),
    ensemble: str | None = None,
) -> list[dict]:
    """Answers of a run's prompt, or of an ensemble.

    Args:
      backbone, overrides: as in `load_run`.
      texts: rows with the template's fields, or plain texts for its only field; of a run of several tasks, rows that also
        name theirs in the column `task`.
      prompts: run folders or prompt files that answer together with the run's: of the same backbone, template and labels.
      ensemble: how: "mean" of the probabilities, or by majority "vote"; default: by the mean, where there are `prompts`. Of a
        population's folder without `prompts`, all members answer together.

    Returns:
      One dict per text: `input`, `prediction` (a label, a number, or the written text) and, for labels, `probability`.
    """
    whole = run_config(run_dir, overrides)
    if whole.tasks is not None:
        if prompts or ensemble is not None:
            raise InputError(f"run {str(run_dir)!r} is of several tasks: an ensemble is of one, RUN/tasks/NAME")
        return predict_several(*load_several(whole, run_dir, backbone, overrides), texts)
    config, prompt = best_of(whole, run_dir, overrides)
    experiment = rebuild(config, prompt, backbone)
    return predict(experiment, ensemble_of(run_dir, experiment, prompt, prompts, ensemble), texts, ensemble)


def ensemble_of(
    run_dir: str | Path, experiment: Experiment, prompt: Prompt, prompts: Sequence[str | Path], ensemble: str | None
) -> list[Prompt]:
    """The prompts that answer together: a run's own, and others; arguments as in `predict_run`.

    Raises InputError for one that answers another question, or is of another shape.
    """
    if ensemble is not None and ensemble not in HOW:
        raise InputError(f"ensemble {ensemble!r}{did_you_mean(ensemble, HOW)}")
    found = {str(run_dir): prompt}
    if prompts:
        found |= {str(path): load_prompt(path) for path in prompts}
    elif ensemble is not None:
        found = {str(folder): load_prompt(folder) for folder in member_folders(run_dir)}
    if len(found) == 1 and ensemble is not None:
        raise InputError(f"an ensemble of one prompt, that of {str(run_dir)!r}: name others with --prompt")
    if len(found) > 1 and experiment.objective.writes:
        raise InputError(f"an ensemble is of answers, and run {str(run_dir)!r} writes text: use one prompt")
    shapes = {name: np.shape(array) for name, array in prompt.arrays.items()}
    for name, other in found.items():
        other.check(experiment.backbone)
        for key in ("template", "labels", "objective", "chat"):
            if other.info.get(key) != prompt.info.get(key):
                raise InputError(f"prompt {name!r} has another {key} than run {str(run_dir)!r}: leave it out")
        here = {array: np.shape(value) for array, value in other.arrays.items()}
        if here != shapes or (other.prefix and other.prefix.length) != (prompt.prefix and prompt.prefix.length):
            raise InputError(f"prompt {name!r} holds {here}, that of run {str(run_dir)!r} {shapes}: leave it out")
    return list(found.values())


def predict(
    experiment: Experiment, prompt: Prompt | Sequence[Prompt], texts: Sequence[str | dict], ensemble: str | None = None
) -> list[dict]:
    """As `predict_run`, for parts that are loaded already."""
    prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
    fields = experiment.encoder.template.fields
    with naming_source(texts):
        if isinstance(texts, Source):
            texts = ListSource(texts.name, selected(texts, experiment.config.data.rename, {}))
        rows = rows_of(texts, fields)
        shown = [shown_input(row, fields, number) for number, row in enumerate(rows, 1)]
        examples = [] if experiment.objective.writes else experiment.encode(rows, labelled=False)
    if experiment.objective.writes:
        written = generate(experiment.backbone, texts if isinstance(texts, Source) else rows, prompts[0])
        return [{"input": i, "prediction": w.strip()} for i, w in zip(shown, written, strict=True)]
    each = score_each(experiment, prompts, examples)
    found = combined(each, ensemble)
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
