"""The host loop: data in, steps, evaluations, checkpoints, the best prompt out."""

import functools
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt import config as configs
from jaxprompt.errors import InputError, within_memory
from jaxprompt.experiment.build import Experiment, build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS, judged
from jaxprompt.experiment.run_folder import CACHE, CHECKPOINTS, CONFIG, METRICS, RESULT, dumped, finished, open_run
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import shapes_on
from jaxprompt.machine.background import Background
from jaxprompt.machine.files import whole_file, writing
from jaxprompt.machine.sharding import replicated, row_sharding
from jaxprompt.methods import FROZEN, fold
from jaxprompt.prompts import Prompt, load_prompt, save_prompt
from jaxprompt.reports.records import Meter, MetricsFile
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, evaluate, make_eval_step, refusal
from jaxprompt.training.checkpoint import Checkpoints, saved_step
from jaxprompt.training.memory import state_cost
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import TrainState, init_state, make_train_step

TOO_LARGE = (
    "set train.remat=full or split over more devices (mesh), with which the same run goes on; in a new run raise "
    "train.accumulate or lower train.batch_size or train.eval_batch_size"
)
# The shapes of so many batches are compiled before the first step.
LOOKED_AHEAD = 16


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
      prompt: the best prompt by validation (`train.metric`); the last one without validation data.
      metrics: the best validation figures, and `step`, `best_step`, `train_loss`; with labels, `majority_accuracy`;
        where examples lost text to fit, `truncated`.
      run_dir: folder with config.yaml, metrics.jsonl, prompt.safetensors, predictions.jsonl, result.json and checkpoints/.
    """

    prompt: Prompt
    metrics: dict[str, Any]
    run_dir: Path


def train(config, *, backbone=None, reporter: Reporter | None = None, **overrides) -> Result:
    """Learns a prompt; on an existing run folder of the same config, resumes it.

    Args:
      config: a YAML file, a mapping or a `Config`.
      backbone: an already loaded backbone, to save its loading; default: the config's.
      reporter: where progress goes; default: standard error.
      overrides: config keys, as sections (`train={"steps": 10}`) or whole values (`seed=1`).

    Raises:
      InputError: bad config, data or weights, or a run folder that holds another experiment.
    """
    config = configs.load_config(config, overrides)
    reporter = reporter or Reporter()
    run_dir = open_run(config)
    # The weights are read and the programs compiled while rows are tokenised and packed.
    with Background() as background:
        experiment = build(config, backbone, reporter, background=background)
        data = TrainingData.load(experiment)
        return _Run(experiment, data, run_dir, reporter).run(background)


def _one_ahead(batches: Iterator) -> Iterator:
    """Yields batches, the next one packed and on its way before a step is waited for: the devices never wait for it."""
    batch = next(batches)
    for following in batches:
        yield batch
        batch = following


class _Run:
    """One run in progress."""

    def __init__(self, experiment: Experiment, data: TrainingData, run_dir: Path, reporter: Reporter):
        config = experiment.config
        # A run that is at its end computes too little more.
        data = data if (run_dir / RESULT).exists() else data.cached(experiment, run_dir / CACHE)
        self.experiment, self.data, self.run_dir, self.reporter = experiment, data, run_dir, reporter
        self.steps = config.train.steps
        every = config.train.eval_every or max(1, -(-self.steps // 10))
        self.eval_every, self.checkpoint_every = every, config.train.checkpoint_every or every
        mesh = experiment.backbone.mesh
        self.figures = figures_of(config, experiment.objective)
        # What the newest best prompt scored, if this process saw it.
        self.best_found: Evaluation | None = None
        self.place = lambda batch: jax.device_put(batch, row_sharding(mesh))
        self.place_state = lambda state: jax.device_put(state, replicated(mesh))
        self.fold = jax.jit(partial(fold, experiment.method))
        # As `Record` of a checkpoint.
        self.record = {
            "backbone": None,
            "data": data.fingerprint,
            "best": None,
            "best_step": None,
            "evaluations_since_best": 0,
            "train_loss": None,
            "stopped": False,
        }

    def run(self, background: Background) -> Result:
        config = self.experiment.config
        self._say_what_was_cut()
        trainable = self.experiment.trainable_shapes()
        if self.steps and not any(jax.tree.leaves(part) for name, part in trainable.items() if name != FROZEN):
            raise InputError(
                "nothing to learn: the template has no {soft:N}, and there is no prefix or head; set train.steps=0"
            )
        optimizer = make_optimizer(config.optimizer, self.steps, trainable)
        cost = state_cost(trainable, optimizer, self.experiment.backbone.params, self.experiment.backbone.dtype)
        if cost is not None:
            self.reporter.say(cost)
        start = partial(init_state, optimizer=optimizer, seed=config.seed_of("sampling"))
        forward = self.experiment.forward(self.data.hoisted)
        prefill = forward.prefill()
        # Shapes, which are enough to compile for, until the weights take their place.
        frozen = forward.frozen_shapes(prefill)
        step = make_train_step(forward, self.experiment.method, optimizer, frozen)
        self.eval_step = make_eval_step(forward, frozen)
        self._begin_compiling(background, step, dict(frozen), jax.eval_shape(start, trainable))
        self.experiment = experiment = self.experiment.loaded()
        self.record["backbone"] = experiment.backbone.fingerprint
        frozen.update(experiment.forward(self.data.hoisted).frozen(prefill))
        self._fill_caches(frozen)
        state = start(experiment.init_trainable())
        # Everything that a config can get wrong has been checked, and that a folder with one is this experiment's.
        if not (self.run_dir / CONFIG).exists():
            with writing(self.run_dir):
                self.run_dir.mkdir(parents=True, exist_ok=True)
            with whole_file(self.run_dir / CONFIG) as file:
                file.write(dumped(config).encode())
        checkpoints = Checkpoints(self.run_dir / CHECKPOINTS, config.train.keep_checkpoints)
        try:
            state = self._resume(checkpoints, state)
            metrics_file = MetricsFile(self.run_dir / METRICS, int(state.step))
            try:
                with within_memory(TOO_LARGE):
                    state = self._loop(step, self.place_state(state), checkpoints, metrics_file)
            finally:
                self.reporter.stop()
        finally:
            checkpoints.close()
        return self._finish(state)

    def _fill_caches(self, frozen: dict) -> None:
        """Computes what the data's caches hold, if there are any."""
        begun = time.perf_counter()
        look_ahead = compiler.jit(self.experiment.forward(self.data.hoisted).look_ahead)
        size = self.data.fill_caches(lambda batch: look_ahead(frozen, self.place(batch)))
        if size:
            how, seconds = self.experiment.config.data.cache, time.perf_counter() - begun
            self.reporter.say(
                f"computed what is ahead of the prompt in {seconds:.1f} s: {size / 1e9:.2f} GB ({how}), read in every step"
            )

    def _begin_compiling(self, background: Background, step, frozen: dict, state: TrainState) -> None:
        """Begins to compile what the run will need; everything here is shapes."""
        backbone, start = self.experiment.backbone, saved_step(self.run_dir / CHECKPOINTS)
        left = 0 if (self.run_dir / RESULT).exists() else self.steps - start
        rows, everywhere = row_sharding(backbone.mesh), replicated(backbone.mesh)
        # The first of each shape; parts of a batch are compiled for when they come.
        if left > 0 and self.data.accumulate == 1:
            batches = [self.data.train[start + step] for step in range(min(left, LOOKED_AHEAD))]
            shapes = {batch.inputs.ids.shape: shapes_on(rows, batch) for batch in batches}
            step.ahead.begin(background, [(frozen, shapes_on(everywhere, state), batch) for batch in shapes.values()])
            sizes = " and ".join("x".join(map(str, shape)) for shape in shapes)
            meanwhile = "" if backbone.reading is None or backbone.reading.done() else ", while the weights load"
            self._say_compiling(f", {sizes} tokens{meanwhile}")
        if self.data.validation is not None and (left > 0 or not start):
            conditioning = jax.eval_shape(self.fold, state.trainable)
            learned = shapes_on(everywhere, (conditioning, state.trainable.get("head", {})))
            self.eval_step.ahead.begin(
                background, [(frozen, *learned, shapes_on(rows, next(self.data.validation.batches())))]
            )

    def _say_compiling(self, what: str = "") -> None:
        attention = self.experiment.backbone.module.attention
        self.reporter.say(f"compiling the train step (attention by {attention}){what} ...")

    def _resume(self, checkpoints: Checkpoints, state: TrainState) -> TrainState:
        if checkpoints.latest() is None:
            return state
        state, record = checkpoints.restore(state)
        for name in ("backbone", "data"):
            if record[name] != self.record[name]:
                raise InputError(
                    f"run folder {str(self.run_dir)!r} was made with another {name} (fingerprint {record[name]}, now "
                    f"{self.record[name]}): name another run_dir"
                )
        if record["best_step"] is not None:
            # What the run returns, unless it finds a better one.
            load_prompt(self.run_dir).check(self.experiment.backbone)
        self.record = record
        self.reporter.say(f"resuming {self.run_dir} at step {int(state.step)}")
        return state

    def _loop(self, step, state, checkpoints, metrics_file) -> TrainState:
        start, pending = int(state.step), []
        if (
            start == 0
            and self.data.validation is not None
            and (self.experiment.config.train.eval_start or not self.steps)
        ):
            self.reporter.say(f"scoring the start on {self.data.validation.size} validation examples ...")
            self._evaluate(state, 0, metrics_file)
        if start >= self.steps or self.record["stopped"]:
            return state
        if self.data.accumulate > 1:
            self._say_compiling()
        self.reporter.start(self.steps, start)
        meter, batch_size = Meter(), self.data.batch_size
        for number, batch in enumerate(_one_ahead(map(self.place, self.data.train_batches(start))), start + 1):
            first = number == start + 1
            seconds = step.ahead.seconds(batch) if first else None
            if seconds is not None:
                self.reporter.say(f"compiled in {seconds:.1f} s")
                meter = Meter()
            state, figures = step(state, batch)
            pending.append(figures)
            meter.add(batch_size)
            if first:
                jax.block_until_ready(state)
                did = "compiled and took" if seconds is None else "took"
                self.reporter.say(f"{did} the first step in {meter.seconds():.1f} s")
                meter = Meter()  # rates leave compilation out
            if number % self.experiment.config.train.log_every == 0 or number == self.steps:
                self._log(pending, number, meter, metrics_file)
                pending = []
            if self.data.validation is not None and (number % self.eval_every == 0 or number == self.steps):
                jax.block_until_ready(state)
                meter.pause()
                self._evaluate(state, number, metrics_file)
                meter.restart()
                patience = self.experiment.config.train.patience
                self.record["stopped"] = patience is not None and self.record["evaluations_since_best"] >= patience
            if number % self.checkpoint_every == 0 or number == self.steps or self.record["stopped"]:
                checkpoints.save(state, self.record)
            if self.record["stopped"]:
                self.reporter.say(f"no improvement in {patience} evaluations: stopped at step {number}")
                break
            if number == self.steps:
                break
        return state

    def _log(self, pending, number, meter, metrics_file) -> None:
        host = jax.device_get(pending)
        counts = np.array([float(m["count"]) for m in host])
        losses = np.array([float(m["loss"]) for m in host])
        loss = float((losses * counts).sum() / counts.sum())
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} by step {number}: lower optimizer.learning_rate (last checkpoint kept)"
            )
        self.record["train_loss"] = loss
        record = {"step": number, "loss": loss, "grad_norm": float(host[-1]["grad_norm"]), **meter.read(counts)}
        metrics_file.write(record)
        self.reporter.log(record, self.steps)

    def _evaluate(self, state, number, metrics_file) -> None:
        data = self.data.validation
        # Folded once, not in every batch.
        conditioning = self.fold(state.trainable)
        step = partial(self.eval_step, conditioning, state.trainable.get("head", {}))
        found = evaluate(step, data.batches(), self.place, data.size)
        if found.not_finite:
            error = refusal(found, self.experiment.backbone.dtype)
            if number == 0:
                raise error
            # What is not finite cannot be compared: it is never the best, whatever was before.
            self.reporter.say(f"step {number}: not counted as an evaluation: {error}")
            metrics_file.write({"step": number, "validation": None, "not_finite": found.not_finite})
            self.record["evaluations_since_best"] += 1
            return
        scores = found.metrics(self.figures.outputs)
        if self.figures.writes:
            texts = write_for(self.experiment, conditioning, self.inputs)
            scores |= {metric.name: metric(texts, self.inputs.references) for metric in self.figures.texts}
        metrics_file.write({"step": number, "validation": scores})
        self.reporter.log({"step": number, "validation": scores}, self.steps)
        quality = self.figures.quality
        if self.record["best"] is None or quality(scores) > quality(self.record["best"]):
            self.best_found = found
            self.record.update(best=scores, best_step=number, evaluations_since_best=0)
            save_prompt(self.experiment.prompt(state.trainable), self.run_dir)
        else:
            self.record["evaluations_since_best"] += 1

    def _say_what_was_cut(self) -> None:
        for name, count in self.data.truncated.items():
            self.reporter.say(f"{count} {name} examples lost text to fit {self.experiment.encoder.max_length} tokens")

    @functools.cached_property
    def inputs(self) -> Inputs:
        """What is written for while training."""
        options = self.experiment.config.evaluation
        return Inputs.of(self.experiment, self.data.validation_rows).first(options.examples)

    def _finish(self, state) -> Result:
        if self.data.validation is None:
            save_prompt(self.experiment.prompt(state.trainable), self.run_dir)
        elif self.record["best"] is None:
            raise InputError(
                f"no evaluation of run {str(self.run_dir)!r} gave finite scores, so it has no best prompt: its metrics.jsonl "
                "names the examples; in a new run leave them out, or set dtype to bfloat16 or float32"
            )
        prompt = load_prompt(self.run_dir)
        metrics = {
            **(self.record["best"] or {}),
            **({} if self.data.validation is None else self._final(prompt)),
            "step": int(state.step),
            "best_step": self.record["best_step"],
            "train_loss": self.record["train_loss"],
        }
        if self.data.majority is not None:
            metrics["majority_accuracy"] = self.data.majority
        metrics["attention"] = self.experiment.backbone.module.attention
        if self.data.truncated:
            metrics["truncated"] = self.data.truncated
        with whole_file(self.run_dir / RESULT) as file:
            file.write((json.dumps(metrics, indent=2, ensure_ascii=False) + "\n").encode())
        shutil.rmtree(self.run_dir / CACHE, ignore_errors=True)
        return Result(prompt, metrics, self.run_dir)

    def _final(self, prompt: Prompt) -> dict[str, Any]:
        """All figures of the best prompt, its predictions in a file; those of a run that was finished before, as they are."""
        known = finished(self.run_dir)
        if self.best_found is None and known is not None and (self.run_dir / PREDICTIONS).exists() == self._predicts:
            return known
        conditioning, head = self.place_state(jax.tree.map(jnp.asarray, (prompt.conditioning, prompt.head)))
        data = self.data.validation
        if self.best_found is None:
            self.best_found = evaluate(
                partial(self.eval_step, conditioning, head), data.batches(), self.place, data.size
            )
        if self.figures.texts:
            self.reporter.say("writing for the validation inputs ...")
        final = judged(
            self.experiment,
            self.figures,
            self.best_found,
            conditioning,
            self.data.validation_rows,
            self.run_dir / PREDICTIONS,
        )
        self.reporter.figures(final)
        return final

    @property
    def _predicts(self) -> bool:
        """Whether the run leaves predictions."""
        return bool(self.figures.texts) or not self.experiment.objective.writes
