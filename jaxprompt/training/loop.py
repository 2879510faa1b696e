"""The host loop: data in, steps, evaluations, checkpoints, the best prompt out."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt import config as configs
from jaxprompt.errors import InputError, NotFinite, within_memory
from jaxprompt.experiment.build import Experiment, build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.run_folder import CACHE, CHECKPOINTS, RESULT, claimed, open_run
from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import shape_of, shapes_on
from jaxprompt.machine.background import Background
from jaxprompt.machine.sharding import batch_shardings, replicated
from jaxprompt.methods import FROZEN, fold
from jaxprompt.prompts import Prompt
from jaxprompt.reports.records import Meter
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, evaluate, make_eval_step
from jaxprompt.training.checkpoint import Checkpoints, Record, Saved
from jaxprompt.training.member import Member, write_config
from jaxprompt.training.memory import state_cost
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.population import Population
from jaxprompt.training.step import TrainState, init_state, make_train_step
from jaxprompt.training.tasks import Tasks

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
      prompt: the best prompt by validation (`train.metric`); the last one without validation data. Of a population, the
        best member's; of several tasks, those of all, by name.
      metrics: the best validation figures, and `step`, `best_step`, `train_loss`; with labels, `majority_accuracy`;
        where examples lost text to fit, `truncated`. Of a population, as in `Population.finish`; of tasks, as in
        `Tasks.finish`.
      run_dir: folder with config.yaml, metrics.jsonl, prompt.safetensors, predictions.jsonl, result.json and checkpoints/.
    """

    prompt: Prompt | dict[str, Prompt]
    metrics: dict[str, Any]
    run_dir: Path


def train(config, *, backbone=None, reporter: Reporter | None = None, **overrides) -> Result:
    """Learns a prompt, or those of a population or of several tasks; on an existing run folder of the same config, resumes it.

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
    with claimed(run_dir), Background() as background:
        saved = Saved.newest(run_dir / CHECKPOINTS)
        if config.population:
            learner = Population.of(config, backbone, run_dir, reporter, background)
        elif config.tasks:
            learner = Tasks.of(config, backbone, run_dir, reporter, background)
        else:
            learner = Alone.of(build(config, backbone, reporter, background=background), run_dir, reporter, saved)
        return _Run(learner, run_dir, reporter, saved).run(background)


class Alone:
    """What the loop needs of a run that learns one prompt; `Population` and `Tasks` have the same of several.

    Attributes:
      batches: how many batches a step's examples are.
      trainable: shapes of what is learned.
    """

    batches = 1

    def __init__(self, experiment: Experiment, data: TrainingData, member: Member):
        self.experiment, self.data, self.members = experiment, data, [member]
        self.trainable = experiment.trainable_shapes()
        config = self.config = experiment.config
        self.optimizer = make_optimizer(config.optimizer, config.train.steps, self.trainable)
        self.start = partial(init_state, optimizer=self.optimizer, seed=config.seed_of("sampling"))
        self.fold = jax.jit(partial(fold, experiment.method))

    @classmethod
    def of(cls, experiment: Experiment, run_dir: Path, reporter: Reporter, saved: Saved) -> "Alone":
        data = TrainingData.load(experiment)
        # A run that is at its end computes too little more.
        data = data if _ended(run_dir, saved) else data.cached(experiment, run_dir / CACHE)
        return cls(experiment, data, Member("", experiment, data, run_dir, reporter))

    def compile(self, frozen: dict) -> None:
        """Makes the steps, for frozen parameters of which there may be shapes only."""
        forward = self.experiment.forward(self.data.hoisted)
        self.step = make_train_step(forward, self.experiment.method, self.optimizer, frozen)
        self.eval_step = make_eval_step(forward, frozen)

    def loaded(self) -> dict:
        """Waits for the weights, and returns what is learned at step 0."""
        self.experiment = self.members[0].experiment = self.experiment.loaded()
        return self.experiment.init_trainable()

    def trainable_of(self, trainable: dict, number: int) -> dict:
        """What a member learns."""
        return trainable

    def evaluate(self, conditioning, head, place) -> list[Evaluation]:
        """Scores the validation data under conditionings and heads as `fold` gives them."""
        validation = self.data.validation
        return [evaluate(partial(self.eval_step, conditioning, head), validation.batches(), place, validation.size)]

    def of_prompts(self, prompts: list[Prompt]) -> tuple:
        """The conditionings and heads of prompts, one for each member, as `evaluate` takes them."""
        return jax.tree.map(jnp.asarray, (prompts[0].conditioning, prompts[0].head))

    def stop(self, state: TrainState) -> TrainState:
        """The state in which members that have stopped learn no more."""
        return state

    def evaluated(self, number: int) -> None:
        """Says what an evaluation found, beyond what members say."""

    def finish(self, results: dict[int, dict], prompts: dict[int, Prompt]) -> tuple[Prompt, dict]:
        """The best prompt, and what is said of the run; writes what there is beyond members' results and prompts."""
        return prompts[0], results[0]


def _ended(run_dir: Path, saved: Saved) -> bool:
    """Whether a run was at its end, and its last checkpoint is good."""
    return (run_dir / RESULT).exists() and not saved.damaged


def _one_ahead(batches: Iterator) -> Iterator:
    """Yields batches, the next one packed and on its way before a step is waited for: the devices never wait for it."""
    batch = next(batches)
    for following in batches:
        yield batch
        batch = following


class _Run:
    """One run in progress."""

    def __init__(self, learner: Alone | Population | Tasks, run_dir: Path, reporter: Reporter, saved: Saved):
        self.learner, self.members, self.data = learner, learner.members, learner.data
        self.config, self.run_dir, self.reporter, self.saved = learner.config, run_dir, reporter, saved
        self.steps = self.config.train.steps
        every = self.config.train.eval_every or max(1, -(-self.steps // 10))
        self.eval_every, self.checkpoint_every = every, self.config.train.checkpoint_every or every
        mesh = learner.experiment.backbone.mesh
        self.place = lambda batch: jax.device_put(batch, batch_shardings(mesh, batch))
        self.place_state = lambda state: jax.device_put(state, replicated(mesh))

    def run(self, background: Background) -> Result:
        learner, data = self.learner, self.data
        for name, count in data.truncated.items():
            most = learner.experiment.encoder.max_length
            self.reporter.say(f"{count} {name} examples lost text to fit {most} tokens")
        learned = (part for name, part in learner.trainable.items() if name != FROZEN)
        if self.steps and not any(map(jax.tree.leaves, learned)):
            raise InputError(
                "nothing to learn: the template has no {soft:N}, and there is no prefix or head; set train.steps=0"
            )
        state = jax.eval_shape(learner.start, learner.trainable)
        cost = state_cost(state, learner.experiment.backbone.params, learner.experiment.backbone.dtype)
        if cost is not None:
            self.reporter.say(cost)
        prefill = learner.experiment.forward(data.hoisted).prefill()
        # Shapes, which are enough to compile for, until the weights take their place.
        frozen = learner.experiment.forward(data.hoisted).frozen_shapes(prefill)
        learner.compile(frozen)
        self._begin_compiling(background, dict(frozen), state)
        trainable = learner.loaded()
        frozen.update(learner.experiment.forward(data.hoisted).frozen(prefill))
        self._fill_caches(frozen)
        state = learner.start(trainable)
        # Everything that a config can get wrong has been checked, and that a folder with one is this experiment's.
        write_config(self.run_dir, learner.config)
        for member in self.members:
            write_config(member.run_dir, member.experiment.config)
        state = self._resume(state)
        checkpoints = Checkpoints(self.saved.folder, self.config.train.keep_checkpoints, after=self.saved.step)
        try:
            for member in self.members:
                member.begin(int(np.max(state.step)))
            try:
                with within_memory(TOO_LARGE):
                    state = self._loop(self.place_state(state), checkpoints)
            finally:
                self.reporter.stop()
        finally:
            checkpoints.close()
        return self._finish(state)

    def _fill_caches(self, frozen: dict) -> None:
        """Computes what the data's caches hold, if there are any."""
        begun = time.perf_counter()
        look_ahead = compiler.jit(self.learner.experiment.forward(self.data.hoisted).look_ahead)
        size = self.data.fill_caches(lambda batch: look_ahead(frozen, self.place(batch)))
        if size:
            seconds = time.perf_counter() - begun
            self.reporter.say(
                f"computed what is ahead of the prompt in {seconds:.1f} s: {size / 1e9:.2f} GB ({self.config.data.cache}), "
                "read in every step"
            )

    def _begin_compiling(self, background: Background, frozen: dict, state: TrainState) -> None:
        """Begins to compile what the run will need; everything here is shapes."""
        learner, backbone = self.learner, self.learner.experiment.backbone
        start = self.saved.step
        left = 0 if _ended(self.run_dir, self.saved) else self.steps - start
        everywhere = replicated(backbone.mesh)

        def shapes(batch):
            return jax.tree.map(shape_of, batch, batch_shardings(backbone.mesh, batch))

        # The first of each shape; parts of a batch are compiled for when they come.
        if left > 0 and self.data.accumulate == 1:
            batches = [self.data.train[start + step] for step in range(min(left, LOOKED_AHEAD))]
            first = {batch.inputs.ids.shape: shapes(batch) for batch in batches}
            calls = [(frozen, shapes_on(everywhere, state), batch) for batch in first.values()]
            learner.step.ahead.begin(background, calls)
            sizes = " and ".join("x".join(map(str, shape)) for shape in first)
            meanwhile = "" if backbone.reading is None or backbone.reading.done() else ", while the weights load"
            self._say_compiling(f", {sizes} tokens{meanwhile}")
        if self.data.validation is not None and (left > 0 or not start):
            conditioning = jax.eval_shape(learner.fold, state.trainable)
            learned = shapes_on(everywhere, (conditioning, state.trainable.get("head", {})))
            batch = shapes(next(self.data.validation.batches()))
            learner.eval_step.ahead.begin(background, [(frozen, *learned, batch)])

    def _say_compiling(self, what: str = "") -> None:
        attention = self.learner.experiment.backbone.module.attention
        self.reporter.say(f"compiling the train step (attention by {attention}){what} ...")

    @property
    def _record(self) -> Record:
        """What a checkpoint holds beside the state."""
        fingerprints = {"backbone": self.learner.experiment.backbone.fingerprint, **self.data.fingerprints}
        return Record.of(fingerprints, [dict(member.progress) for member in self.members])

    def _resume(self, state: TrainState) -> TrainState:
        saved = self.saved
        if saved.record is not None:
            state = saved.state(state)
            saved.record.check(self._record, self.run_dir)
            for member, progress in zip(self.members, saved.record.members, strict=True):
                member.resume(progress.model_dump())
            self.reporter.say(f"resuming {self.run_dir} at step {saved.step}")
        if saved.damaged:  # the end is come to once more
            for folder in (self.run_dir, *(member.run_dir for member in self.members)):
                (folder / RESULT).unlink(missing_ok=True)
        return state

    def _loop(self, state: TrainState, checkpoints: Checkpoints) -> TrainState:
        start, pending = int(np.max(state.step)), []
        if start == 0 and self.data.validation is not None and (self.config.train.eval_start or not self.steps):
            self.reporter.say(f"scoring the start on {self.data.validation.size} validation examples ...")
            state = self._evaluate(state, 0)
        if start >= self.steps or not any(member.running for member in self.members):
            return state
        if self.data.accumulate > 1:
            self._say_compiling()
        self.reporter.start(self.steps, start)
        step, meter, batch_size = self.learner.step, Meter(), self.data.batch_size
        for number, batch in enumerate(_one_ahead(map(self.place, self.data.train_batches(start))), start + 1):
            first = number == start + 1
            seconds = step.ahead.seconds(batch) if first else None
            if seconds is not None:
                self.reporter.say(f"compiled in {seconds:.1f} s")
                meter = Meter()
            state, figures = step(state, batch)
            pending.append(figures)
            meter.add(batch_size * self.learner.batches)
            if first:
                jax.block_until_ready(state)
                did = "compiled and took" if seconds is None else "took"
                self.reporter.say(f"{did} the first step in {meter.seconds():.1f} s")
                meter = Meter()  # rates leave compilation out
            if number % self.config.train.log_every == 0 or number == self.steps:
                state = self._log(state, pending, number, meter)
                pending = []
            if self.data.validation is not None and (number % self.eval_every == 0 or number == self.steps):
                jax.block_until_ready(state)
                meter.pause()
                state = self._evaluate(state, number)
                meter.restart()
            ends = number == self.steps or not any(member.running for member in self.members)
            if number % self.checkpoint_every == 0 or ends:
                for member in self.members:
                    member.sync()
                checkpoints.save(state, self._record)
            if ends:
                break
        return state

    def _log(self, state: TrainState, pending: list, number: int, meter: Meter) -> TrainState:
        # Of each step, a figure for each member.
        host = [{name: np.reshape(value, -1) for name, value in step.items()} for step in jax.device_get(pending)]
        rates, records = meter.read([float(step["count"].sum()) for step in host]), []
        for at, member in enumerate(self.members):
            if member.running:
                steps = [{name: values[at] for name, values in step.items()} for step in host]
                self._attempt(member, lambda: records.append(member.log(number, steps, rates)))  # noqa: B023 (at once)
        if records := list(filter(None, records)):
            loss = float(np.mean([record["loss"] for record in records]))
            self.reporter.log({**records[0], "loss": loss}, self.steps)
        return self.learner.stop(state)

    def _evaluate(self, state: TrainState, number: int) -> TrainState:
        learner = self.learner
        # Folded once, not in every batch.
        found = learner.evaluate(learner.fold(state.trainable), state.trainable.get("head", {}), self.place)
        for at, (member, scores) in enumerate(zip(self.members, found, strict=True)):
            if member.running:
                own = learner.trainable_of(state.trainable, at)
                self._attempt(member, lambda: member.judge(number, scores, own))  # noqa: B023 (at once)
        learner.evaluated(number)
        return learner.stop(state)

    def _attempt(self, member: Member, what: Callable[[], Any]) -> None:
        """Does something for a member, which is given up where its numbers are not finite, unless it is the last."""
        try:
            what()
        except NotFinite as error:
            others = [other for other in self.members if other is not member and not other.failed]
            if not others:
                raise
            member.fail(error)

    def _finish(self, state: TrainState) -> Result:
        learner, prompts = self.learner, {}
        steps = np.broadcast_to(state.step, len(self.members)).tolist()
        for at, member in enumerate(self.members):
            if not member.failed:
                if self.data.validation is None:
                    member.keep(learner.trainable_of(state.trainable, at))
                self._attempt(member, lambda: prompts.update({at: member.best_prompt()}))  # noqa: B023 (at once)
        scored = [member.best_found for member in self.members]
        known = {at: self.members[at].known for at in prompts}
        if self.data.validation is not None and any(known[at] is None and scored[at] is None for at in prompts):
            given = [prompts.get(at, next(iter(prompts.values()))) for at in range(len(self.members))]
            scored = learner.evaluate(*self.place_state(learner.of_prompts(given)), self.place)
        results = {}
        for at, prompt in prompts.items():
            found = None if self.data.validation is None or known[at] is not None else scored[at]
            results[at] = self.members[at].finish(prompt, steps[at], found, known[at] or {})
        best, metrics = learner.finish(results, prompts)
        shutil.rmtree(self.run_dir / CACHE, ignore_errors=True)
        return Result(best, metrics, self.run_dir)
