"""Using a run of several tasks: rows of all of them in the same batches, each under its task's prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.experiment.build import rebuild
from jaxprompt.experiment.data import encoded_validation, hoist
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS, judged
from jaxprompt.experiment.rows import validates, validation_rows
from jaxprompt.experiment.run_folder import read_run
from jaxprompt.experiment.several import TASKS, SeveralExperiment, means, naming_task, numbered
from jaxprompt.inference.generate import shown_input
from jaxprompt.inference.score import scored
from jaxprompt.objectives.several import TASK
from jaxprompt.prompts import Prompt
from jaxprompt.scoring.evaluate import Evaluation
from jaxprompt.scoring.writing import Contexts, contexts_of, search_of, write
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.values import shown


def load_several(
    config: Config, run_dir: str | Path, backbone: Backbone | None = None, overrides: Sequence[str] = ()
) -> tuple[SeveralExperiment, dict[str, Prompt]]:
    """The parts and the best prompts of a run of several tasks; arguments and errors as those of `load_run`."""
    parts, prompts = {}, {}
    for task in config.tasks:
        with naming_task(task):
            of_task, prompts[task] = read_run(Path(run_dir) / TASKS / task, overrides)
            parts[task] = rebuild(of_task, prompts[task], backbone)
            backbone = parts[task].backbone
    return SeveralExperiment.of(config, parts), prompts


def _of(experiment: SeveralExperiment, tasks: Sequence[str]) -> SeveralExperiment:
    """The same of some of the tasks only."""
    return SeveralExperiment.of(experiment.config, {task: experiment.parts[task] for task in tasks})


def score_several(
    experiment: SeveralExperiment, prompts: Mapping[str, Prompt], examples: Mapping[str, list[Encoded]]
) -> dict[str, Evaluation]:
    """Scores each task's encoded examples under its prompt, all in the same batches; errors as those of `score`."""
    experiment, shared, sets = _of(experiment, list(examples)), {}, {}
    for task, own in examples.items():
        shared[task], (own,) = hoist(experiment.parts[task], [own])
        sets[task] = (own,)
    mixed, hoisted = numbered(experiment, sets, shared)
    learned = experiment.learned([prompts[task] for task in examples])
    (found,) = scored(experiment, learned, [example for (own,) in mixed for example in own], hoisted)
    return {task: experiment.found_in(found, number) for number, task in enumerate(examples)}


def evaluate_several(experiment: SeveralExperiment, prompts: Mapping[str, Prompt], run_dir: Path) -> dict[str, Any]:
    """Figures of every task's prompt on the task's validation data: those of `judged` by task, and their means."""
    rows = {task: validation_rows(part.config) for task, part in experiment.parts.items() if validates(part.config)}
    if not rows:
        raise InputError("no task of the run has data.validation: evaluate a task's own folder with --data")
    examples = {}
    for task, own in rows.items():
        with naming_task(task):
            examples[task] = encoded_validation(experiment.parts[task], own)
    by_task = {}
    for task, found in score_several(experiment, prompts, examples).items():
        part, to = experiment.parts[task], run_dir / TASKS / task / PREDICTIONS
        conditioning = jax.tree.map(jnp.asarray, prompts[task].conditioning)
        by_task[task] = judged(part, figures_of(part.config, part.objective), found, conditioning, rows[task], to)
    return means(experiment, by_task) | {"tasks": by_task}


def predict_several(
    experiment: SeveralExperiment, prompts: Mapping[str, Prompt], rows: Sequence[Mapping[str, Any]], **options: Any
) -> list[dict]:
    """Answers rows of several tasks, each of which names its task in the column `task`.

    Args:
      options: of what is written, as those of `generate`: max_new_tokens, num_beams, batch_size.

    Returns:
      One dict per row, in their order: `task`, `input`, `prediction` and so on, as `predict_run`.
    """
    rows, numbers = list(rows), {}
    for number, row in enumerate(rows):
        task = row.get(TASK) if isinstance(row, Mapping) else None
        if task not in experiment.parts:
            known = experiment.parts.keys()
            raise InputError(
                f"row {number + 1} has {shown(task)} in the column {TASK!r}, which has to name its task"
                f"{did_you_mean(task if isinstance(task, str) else '', known)}"
            )
        numbers.setdefault(task, []).append(number)
    writes = [task for task in numbers if experiment.parts[task].objective.writes]
    answers: dict[int, dict] = {}
    examples = {}
    for task in numbers:
        if task not in writes:
            with naming_task(task):
                examples[task] = experiment.parts[task].encode([rows[n] for n in numbers[task]], labelled=False)
    for task, found in (score_several(experiment, prompts, examples) if examples else {}).items():
        objective = experiment.parts[task].objective
        for number, answer in zip(numbers[task], objective.present(found.outputs), strict=True):
            answers[number] = objective.shown(rows[number], answer)
    if writes:
        written = write_several(
            experiment, prompts, {task: [rows[n] for n in numbers[task]] for task in writes}, **options
        )
        for task, texts in written.items():
            answers |= {number: {"prediction": text.strip()} for number, text in zip(numbers[task], texts, strict=True)}
    found = []
    for number, row in enumerate(rows):
        fields = experiment.parts[row[TASK]].encoder.template.fields
        found.append({TASK: row[TASK], "input": shown_input(row, fields, number + 1), **answers[number]})
    return found


def write_several(
    experiment: SeveralExperiment,
    prompts: Mapping[str, Prompt],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    max_new_tokens: int = 64,
    num_beams: int = 1,
    batch_size: int = 8,
) -> dict[str, list[str]]:
    """Writes for each task's rows under its prompt, in the same batches. Raises InputError as `generate`."""
    experiment, contexts, searches = _of(experiment, list(rows)), {}, {}
    backbone = experiment.backbone
    for task, own in rows.items():
        encoder, prompt = experiment.parts[task].encoder, prompts[task]
        with naming_task(task):
            of_task = contexts_of([encoder.context(row, number=n) for n, row in enumerate(own, 1)], encoder)
            searches[task], contexts[task] = search_of(
                backbone, of_task, encoder, prompt.prefix, max_new_tokens=max_new_tokens, num_beams=num_beams
            )
    if len(set(searches.values())) > 1:
        raise InputError(f"the texts of {', '.join(rows)} begin or end otherwise: predict with each task's own folder")
    together = Contexts.of_owners(list(contexts.values()), experiment.rows_before, backbone.vocab_size)
    conditioning, _ = experiment.learned([prompts[task] for task in rows])
    texts = iter(write(backbone, next(iter(searches.values())), together, conditioning, batch_size))
    return {task: [next(texts) for _ in own] for task, own in rows.items()}
