"""The host loop: data in, steps, evaluations, checkpoints, the best prompt out."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jaxprompt import config as configs
from jaxprompt.errors import InputError, NotFinite, within_memory
from jaxprompt.experiment.build import build
from jaxprompt.experiment.run_folder import CACHE, CHECKPOINTS, RESULT, claimed, open_run
from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import batch_shapes, shapes_on
from jaxprompt.machine.background import Background
from jaxprompt.machine.processes import meet
from jaxprompt.machine.sharding import place, place_batch, replicated
from jaxprompt.machine.signals import Interrupted, Signals
from jaxprompt.methods import FROZEN
from jaxprompt.prompts import Prompt
from jaxprompt.reports.records import Meter
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training.alone import Alone
from jaxprompt.training.checkpoint import Checkpoints, Record, Saved
from jaxprompt.training.divergence import why_not_finite
from jaxprompt.training.member import Member, gets_more, write_config
from jaxprompt.training.memory import state_cost
from jaxprompt.training.population import Population
from jaxprompt.training.step import TrainState
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
    with Signals() as signals, claimed(run_dir), Background() as background:
        meet("the run folder")  # which all have looked at before the first writes to it
        saved = Saved.newest(run_dir / CHECKPOINTS)
        # Whether it was at its end, and its last checkpoint is good.
        ended = (run_dir / RESULT).exists() and not saved.damaged and not gets_more(run_dir, config)
        if config.population:
            learner = Population.of(config, backbone, run_dir, reporter, background)
        elif config.tasks:
            learner = Tasks.of(config, backbone, run_dir, reporter, background)
        else:
            experiment = build(config, backbone, reporter, background=background)
            learner = Alone.of(experiment, run_dir, reporter, ended)
        return _Run(learner, run_dir, reporter, saved, ended, signals).run(background)


def _one_ahead(batches: Iterator) -> Iterator:
    """Yields batches, the next one packed and on its way before a step is waited for: the devices never wait for it."""
    batch = next(batches)
    for following in batches:
        yield batch
        batch = following


class _Run:
    """One run in progress."""

    def __init__(
        self,
        learner: Alone | Population | Tasks,
        run_dir: Path,
        reporter: Reporter,
        saved: Saved,
        ended: bool,
        signals: Signals,
    ):
        self.learner, self.members, self.data = learner, learner.members, learner.data
        self.config, self.run_dir, self.reporter = learner.config, run_dir, reporter
        self.saved, self.ended, self.signals = saved, ended, signals
        self.steps = self.config.train.steps
        every = self.config.train.eval_every or max(1, -(-self.steps // 10))
        self.eval_every, self.checkpoint_every = every, self.config.train.checkpoint_every or every
        mesh = learner.experiment.backbone.mesh
        self.place = partial(place_batch, mesh=mesh)
        self.place_state = partial(place, shardings=replicated(mesh))

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
        state = self._resume(state)
        meet("the first step")
        # Everything that a config can get wrong has been checked, and that a folder with one is this experiment's.
        write_config(self.run_dir, learner.config)
        for member in self.members:
            write_config(member.run_dir, member.experiment.config)
        checkpoints = Checkpoints(self.saved.folder, self.config.train.keep_checkpoints, after=self.saved.step)
        try:
            for member in self.members:
                member.begin(int(np.max(state.step)))
            try:
                # A signal that comes meanwhile is heeded between steps, and while an evaluation computes.
                with within_memory(TOO_LARGE), self.signals.later():
                    state = self._loop(self.place_state(state), checkpoints)
            finally:
                self.reporter.stop()
        finally:
            checkpoints.close()
        return self._finish(state)

    def _fill_caches(self, frozen: dict) -> None:
        """Computes what the data's caches hold, if there are any."""
        begun = time.perf_counter()
        forward = self.learner.experiment.forward(self.data.hoisted)
        look_ahead = compiler.jit(forward.look_ahead, out_shardings=replicated(forward.backbone.mesh))
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
        left = 0 if self.ended else self.steps - start
        everywhere = replicated(backbone.mesh)
        shapes = partial(batch_shapes, mesh=backbone.mesh)
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
        return Record.of(fingerprints, [member.progress for member in self.members])

    def _resume(self, state: TrainState) -> TrainState:
        saved = self.saved
        if saved.record is not None:
            state = saved.state(state)
            saved.record.check(self._record, self.run_dir)
            for member, progress in zip(self.members, saved.record.members, strict=True):
                member.resume(progress.model_dump())
            if not self._runs and gets_more(self.run_dir, self.config):
                raise InputError(
                    f"run folder {str(self.run_dir)!r} was stopped at step {saved.step} by train.patience: more train.steps "
                    "would not be taken, name another run_dir"
                )
            self.reporter.say(f"resuming {self.run_dir} at step {saved.step}")
        if saved.damaged:  # the end is come to once more
            for folder in (self.run_dir, *(member.run_dir for member in self.members)):
                (folder / RESULT).unlink(missing_ok=True)
        return state

    def _loop(self, state: TrainState, checkpoints: Checkpoints) -> TrainState:
        start = int(np.max(state.step))
        if self._evaluates(start):
            if start == 0:
                self.reporter.say(f"scoring the start on {self.data.validation.size} validation examples ...")
            state = self._evaluate(state, start, checkpoints)
        if start >= self.steps or not self._runs:
            return state
        if self.data.accumulate > 1:
            self._say_compiling()
        self.reporter.start(self.steps, start)
        step, meter, batch_size, pending = self.learner.step, Meter(), self.data.batch_size, []
        for number, batch in enumerate(_one_ahead(map(self.place, self.data.train_batches(start))), start + 1):
            first, seconds = number == start + 1, None
            if self.signals.agreed(number):
                meter.scored(self._take(pending, number - 1))
                self._end(state, checkpoints)
            if first:
                with self.signals.at_once():
                    seconds = step.ahead.seconds(batch)
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
            logs = number % self.config.train.log_every == 0 or number == self.steps
            saves = number % self.checkpoint_every == 0 or number == self.steps
            if logs or saves or self.signals.ends:
                meter.scored(self._take(pending, number))
                state = self._give_up_diverged(number, state)
            if logs:
                self._log(number, meter)
            if self._evaluates(number):
                jax.block_until_ready(state)
                meter.pause()
                state = self._evaluate(state, number, checkpoints)
                meter.restart()
            ends = number == self.steps or not self._runs
            # What goes wrong by now is not written over what was right.
            if ends or (saves and not any(m.running and m.progress["bad_steps"] for m in self.members)):
                self._save(state, checkpoints)
            if ends:
                break
            if self.signals.ends:
                self._end(state, checkpoints)
        return state

    @property
    def _runs(self) -> bool:
        return any(member.running for member in self.members)

    def _evaluates(self, number: int) -> bool:
        """Whether a step has an evaluation, which is still to come for a member that learns."""
        if self.data.validation is None or not any(m.running and m.progress["judged"] < number for m in self.members):
            return False
        if number == 0:
            return self.config.train.eval_start or not self.steps
        return number % self.eval_every == 0 or number == self.steps

    def _save(self, state: TrainState, checkpoints: Checkpoints) -> None:
        for member in self.members:
            member.sync()
        checkpoints.save(state, self._record)

    def _end(self, state: TrainState, checkpoints: Checkpoints) -> NoReturn:
        """Ends the run as a signal asks, with a checkpoint. Raises Interrupted."""
        number = int(np.max(state.step))
        if number:
            self._save(state, checkpoints)
            checkpoints.wait()
        kept = f"step {number} is kept" if number else "nothing was learned yet"
        name = Interrupted(self.signals.asked).name
        raise Interrupted(
            self.signals.asked,
            f"ended by {name}: {kept}, the same command goes on with run folder {str(self.run_dir)!r}",
        )

    def _take(self, pending: list, number: int) -> list[float]:
        """Brings the figures of steps, the last of them of this number, to the members; returns what each step scored."""
        # Of each step, a figure for each member.
        host = [{name: np.reshape(value, -1) for name, value in step.items()} for step in jax.device_get(pending)]
        pending.clear()
        for at, member in enumerate(self.members):
            for before, step in zip(range(len(host) - 1, -1, -1), host, strict=True):
                if member.running:
                    member.take(number - before, {name: values[at] for name, values in step.items()})
        return [float(step["count"].sum()) for step in host]

    def _give_up_diverged(self, number: int, state: TrainState) -> TrainState:
        """Gives up members whose steps are not finite any more. Raises NotFinite where no other is left."""
        diverged = [at for at, member in enumerate(self.members) if member.diverged]
        for at in diverged:
            member = self.members[at]
            if self.data.validation is None:
                member.keep(self.learner.trainable_of(state.trainable, at))
            self._give_up(member, why_not_finite(self.learner, state, at, self.place))
        return self.learner.stop(state) if diverged else state

    def _log(self, number: int, meter: Meter) -> None:
        rates = meter.read()
        records = [record for member in self.members if member.running and (record := member.log(number, rates))]
        if records:
            losses = [record["loss"] for record in records if record["loss"] is not None]
            self.reporter.log({**records[0], "loss": float(np.mean(losses)) if losses else None}, self.steps)

    def _evaluate(self, state: TrainState, number: int, checkpoints: Checkpoints) -> TrainState:
        learner = self.learner
        try:
            with self.signals.at_once():
                # Folded once, not in every batch.
                conditioning = learner.fold(state.trainable)
                found = learner.evaluate(conditioning, state.trainable.get("head", {}), self.place)
                judged = [member.running and member.progress["judged"] < number for member in self.members]
                own = [learner.trainable_of(state.trainable, at) if to else {} for at, to in enumerate(judged)]
                texts: dict[int, list[str]] = {}
                for at, member in enumerate(self.members):
                    if judged[at]:
                        self._attempt(member, lambda: texts.update({at: member.texts(found[at], own[at])}))  # noqa: B023 (at once)
        except Interrupted:
            self._end(state, checkpoints)
        for at in texts:
            member = self.members[at]
            self._attempt(member, partial(member.judge, number, found[at], texts[at], own[at]))
        learner.evaluated(number)
        return learner.stop(state)

    def _attempt(self, member: Member, what: Callable[[], Any]) -> None:
        """Does something for a member, which is given up where its numbers are not finite, unless it is the last."""
        try:
            what()
        except NotFinite as error:
            self._give_up(member, error)

    def _give_up(self, member: Member, error: NotFinite) -> None:
        """Gives a member up; raises the error where all others were."""
        if all(other is member or other.failed for other in self.members):
            raise error
        member.fail(error)

    def _finish(self, state: TrainState) -> Result:
        learner, prompts = self.learner, {}
        steps = np.broadcast_to(state.step, len(self.members)).tolist()
        for at, member in enumerate(self.members):
            if not member.failed and self.data.validation is None:
                member.keep(learner.trainable_of(state.trainable, at))
        meet("the end of training")  # behind which all find what the first has written
        for at, member in enumerate(self.members):
            if not member.failed:
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
        best, metrics = learner.finish(results, prompts, state.trainable)
        shutil.rmtree(self.run_dir / CACHE, ignore_errors=True)
        return Result(best, metrics, self.run_dir)
