"""What is kept of one learner: its figures, its best prompt, its folder."""

import functools
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxprompt.config import Config, load_config
from jaxprompt.errors import InputError, NotFinite
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS, judged
from jaxprompt.experiment.run_folder import CONFIG, METRICS, RESULT, dumped, finished
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.machine.files import whole_file, writing
from jaxprompt.methods import fold
from jaxprompt.prompts import Prompt, load_prompt, save_prompt
from jaxprompt.reports.records import MetricsFile
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, refusal
from jaxprompt.training.checkpoint import Window


class Member:
    """One learner of a run: the only one, or one of a population.

    Attributes:
      name: "" of the only one.
      progress: as `Progress` of a checkpoint.
      evaluated: the figures of the last evaluation.
      best_found: what the newest best prompt scored, if this process saw it.
    """

    def __init__(self, name: str, experiment: Experiment, data: TrainingData, run_dir: Path, reporter: Reporter):
        self.name, self.experiment, self.data, self.run_dir, self._reporter = name, experiment, data, run_dir, reporter
        self.figures = figures_of(experiment.config, experiment.objective)
        self._fold = jax.jit(partial(fold, experiment.method))
        self.best_found: Evaluation | None = None
        self.evaluated: dict[str, Any] = {}
        self.progress: dict[str, Any] = {
            "best": None,
            "best_step": None,
            "evaluations_since_best": 0,
            "judged": -1,
            "train_loss": None,
            "window": Window().model_dump(),
            "skipped": 0,
            "bad_steps": 0,
            "bad_step": None,
            "stopped": False,
            "failed": None,
        }

    @property
    def running(self) -> bool:
        return not self.progress["stopped"]

    @property
    def failed(self) -> bool:
        return self.progress["failed"] is not None

    def say(self, message: str) -> None:
        self._reporter.say(f"{self.name}: {message}" if self.name else message)

    def begin(self, step: int) -> None:
        """Opens the records, of which those after `step` are from before a kill."""
        self._records = MetricsFile(self.run_dir / METRICS, step, self.progress["judged"])

    def sync(self) -> None:
        """Puts the records on the disk."""
        self._records.sync()

    def resume(self, progress: dict[str, Any]) -> None:
        if progress["best_step"] is not None:
            # What the run returns, unless it finds a better one.
            load_prompt(self.run_dir).check(self.experiment.backbone)
        self.progress = progress

    def fail(self, error: InputError) -> None:
        """Ends the learning of one of a population."""
        self.progress.update(stopped=True, failed=str(error))
        self.say(f"given up: {error}")

    def take(self, number: int, step: Mapping[str, Any]) -> None:
        """Adds the figures of a step of this number; one by one, a run that is taken up in between comes to the same sums."""
        progress = self.progress
        window = progress["window"]
        if step["skipped"]:
            window["skipped"] += 1
            progress["skipped"] += 1
            progress["bad_steps"] += 1
            progress["bad_step"] = number
        elif step["count"]:  # else a task that is in none of its examples
            window["loss"] += float(step["loss"]) * float(step["count"])
            window["count"] += float(step["count"])
            window["grad_norm"] = float(step["grad_norm"])
            if not self.diverged:
                progress["bad_steps"] = 0

    @property
    def diverged(self) -> bool:
        """Whether too many steps in a row were not finite."""
        return self.running and self.progress["bad_steps"] >= self.experiment.config.train.max_bad_steps

    def log(self, number: int, rates: Mapping[str, float]) -> dict[str, Any]:
        """Records the steps since the last time, and returns the record, empty if nothing was scored."""
        window = self.progress["window"]
        if not window["count"] and not window["skipped"]:
            return {}
        record = {"step": number, "loss": None, "grad_norm": window["grad_norm"], **rates}
        if window["count"]:
            record["loss"] = self.progress["train_loss"] = window["loss"] / window["count"]
        if window["skipped"]:
            record["skipped"] = window["skipped"]
        self._records.write(record)
        self.progress["window"] = Window().model_dump()
        return record

    def texts(self, found: Evaluation, trainable: dict) -> list[str]:
        """What the prompt writes for the validation inputs, where a figure asks for that while training."""
        if found.not_finite or not self.figures.writes:
            return []
        return write_for(self.experiment, self._fold(trainable), self._inputs)

    def judge(self, number: int, found: Evaluation, texts: list[str], trainable: dict) -> None:
        """Records an evaluation, and keeps the prompt if it is the best. Raises NotFinite where the start is not."""
        progress, patience = self.progress, self.experiment.config.train.patience
        progress["judged"] = number
        if found.not_finite:
            error = refusal(found, self.experiment.backbone.dtype)
            if number == 0:
                raise error
            # What is not finite cannot be compared: it is never the best, whatever was before.
            self.say(f"step {number}: not counted as an evaluation: {error}")
            self._records.write({"step": number, "validation": None, "not_finite": found.not_finite})
            progress["evaluations_since_best"] += 1
            self.evaluated = {}
        else:
            scores = found.metrics(self.figures.outputs)
            if self.figures.writes:
                scores |= {metric.name: metric(texts, self._inputs.references) for metric in self.figures.texts}
            self.evaluated = scores
            record = {"step": number, "validation": scores}
            self._records.write(record)
            if not self.name:
                self._reporter.log(record, self.experiment.config.train.steps)
            quality = self.figures.quality
            if progress["best"] is None or quality(scores) > quality(progress["best"]):
                self.best_found = found
                progress.update(best=scores, best_step=number, evaluations_since_best=0)
                self.keep(trainable)
            else:
                progress["evaluations_since_best"] += 1
        if number and patience is not None and progress["evaluations_since_best"] >= patience:
            progress["stopped"] = True
            self.say(f"no improvement in {patience} evaluations: stopped at step {number}")

    def keep(self, trainable: dict) -> None:
        """Writes the prompt."""
        save_prompt(self.experiment.prompt(trainable), self.run_dir)

    @functools.cached_property
    def _inputs(self) -> Inputs:
        """What is written for while training."""
        return Inputs.of(self.experiment, self.data.validation_rows).first(self.experiment.config.evaluation.examples)

    def best_prompt(self) -> Prompt:
        """The prompt that the run is for. Raises NotFinite where no evaluation could tell one."""
        if self.data.validation is not None and self.progress["best"] is None:
            raise NotFinite(
                f"no evaluation of run {str(self.run_dir)!r} gave finite scores, so it has no best prompt: its metrics.jsonl "
                "names the examples; in a new run leave them out, or set dtype to bfloat16 or float32"
            )
        return load_prompt(self.run_dir)

    @property
    def known(self) -> dict[str, Any] | None:
        """The figures of a run that was finished before, which hold unless a better prompt was found."""
        known = finished(self.run_dir)
        return known if self.best_found is None and (self.run_dir / PREDICTIONS).exists() == self._predicts else None

    @property
    def _predicts(self) -> bool:
        """Whether the run leaves predictions."""
        return bool(self.figures.texts) or not self.experiment.objective.writes

    def finish(self, prompt: Prompt, step: int, found: Evaluation | None, final: dict[str, Any]) -> dict[str, Any]:
        """Writes the result, and returns it.

        Args:
          found: what the prompt scored, unless that is known, or there is no validation data.
          final: its figures, where they are `known`; else empty.
        """
        if found is not None:
            if self.figures.texts:
                self.say("writing for the validation inputs ...")
            conditioning = jax.tree.map(jnp.asarray, prompt.conditioning)
            rows, predictions = self.data.validation_rows, self.run_dir / PREDICTIONS
            final = judged(self.experiment, self.figures, found, conditioning, rows, predictions)
            if not self.name:
                self._reporter.figures(final)
        result = {
            **(self.progress["best"] or {}),
            **({} if self.data.validation is None else final),
            "step": step,
            "best_step": self.progress["best_step"],
            "train_loss": self.progress["train_loss"],
        }
        if self.progress["skipped"]:
            result["skipped_steps"] = self.progress["skipped"]
        if self.data.majority is not None:
            result["majority_accuracy"] = self.data.majority
        result["attention"] = self.experiment.backbone.module.attention
        if self.data.truncated:
            result["truncated"] = self.data.truncated
        write_result(self.run_dir, result)
        return result


def write_config(run_dir: Path, config: Config) -> None:
    """Makes the folder of a config's run, unless it is there; one of a run that is given more steps has no result any more."""
    if not gets_more(run_dir, config):
        return
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / RESULT).unlink(missing_ok=True)
    with whole_file(run_dir / CONFIG) as file:
        file.write(dumped(config).encode())


def gets_more(run_dir: Path, config: Config) -> bool:
    """Whether a run is new, or has more steps than when it was there before."""
    path = run_dir / CONFIG
    return not path.exists() or load_config(path).train.steps < config.train.steps


def write_result(run_dir: Path, result: Mapping[str, Any]) -> None:
    with whole_file(run_dir / RESULT) as file:
        file.write((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
