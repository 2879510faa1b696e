"""Several tasks in the same steps: each learns a prompt of its own, as if it were alone.

The batches are mixed, every example under its task's prompt. What a step goes down is the sum of the tasks' mean losses, so
that what a task learns has the gradient that it has alone; it is optimized, and its gradient clipped, by itself. What tasks
share (`Method.shared`) has the gradient of all, and one optimizer.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config
from jaxprompt.experiment.several import TASKS, SeveralData, SeveralExperiment, build_several, means
from jaxprompt.machine.background import Background
from jaxprompt.machine.sharding import on_host, summed
from jaxprompt.methods import fold
from jaxprompt.methods.per_task import PerTask
from jaxprompt.objectives.several import TASK
from jaxprompt.prompts import Prompt, save_prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, evaluate, make_eval_step
from jaxprompt.scoring.forward import Forward
from jaxprompt.training.member import Member, write_result
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import TrainState, applied, compiled_step, init_state
from jaxprompt.types import Batch

# The folder of the prompt that tasks share.
COMMON = "shared"


class Tasks:
    """What the loop needs of a run of several tasks, as `loop.Alone` has it of one; a member is a task.

    Attributes:
      trainable: shapes of what is learned.
    """

    def __init__(self, experiment: SeveralExperiment, data: SeveralData, run_dir: Path, reporter: Reporter):
        self.experiment, self.data, self.config = experiment, data, experiment.config
        self._run_dir, self._reporter = run_dir, reporter
        self.members = [
            Member(task, part, data.parts[task], run_dir / TASKS / task, reporter)
            for task, part in experiment.parts.items()
        ]
        self.batches, self.trainable = 1, experiment.trainable_shapes()
        self._optimizer = self._optimizers()
        self.start = partial(init_state, optimizer=self._optimizer, seed=self.config.seed_of("sampling"))
        self.fold = jax.jit(partial(fold, experiment.method))

    @classmethod
    def of(
        cls, config: Config, backbone: Backbone | None, run_dir: Path, reporter: Reporter, background: Background
    ) -> "Tasks":
        """The tasks of a config, with their data; arguments and errors as those of `build`."""
        experiment = build_several(config, backbone, reporter, background)
        return cls(experiment, SeveralData.load(experiment), run_dir, reporter)

    def _optimizers(self) -> optax.GradientTransformation:
        """One for each task, or one for all where they learn something together."""
        one = make_optimizer(self.config.optimizer, self.config.train.steps, self.trainable)
        if self.experiment.method.shares:
            return one

        def owners(tree):
            return {
                group: {task: jax.tree.map(lambda _, task=task: task, part) for task, part in parts.items()}
                for group, parts in tree.items()
            }

        return optax.multi_transform(dict.fromkeys(self.experiment.parts, one), owners)

    def compile(self, frozen: dict) -> None:
        """Makes the steps, for frozen parameters of which there may be shapes only."""
        forward, method = self.experiment.forward(self.data.hoisted), self.experiment.method
        calls = partial(gradient, forward, method), partial(_update, method, self._optimizer)
        self.step = compiled_step(*calls, frozen, self.experiment.backbone.mesh)
        self.eval_step = make_eval_step(forward, frozen)

    def loaded(self) -> dict:
        """Waits for the weights, and returns what is learned at step 0."""
        self.experiment = self.experiment.loaded()
        for member, part in zip(self.members, self.experiment.parts.values(), strict=True):
            member.experiment = part
        return self.experiment.init_trainable()

    def trainable_of(self, trainable: dict, number: int) -> dict:
        """What a task learns."""
        return self.experiment.method.of(self.members[number].name, trainable)

    def evaluate(self, conditioning, head, place: Callable) -> list[Evaluation]:
        """Scores the tasks' validation data, mixed, under a conditioning and heads as `fold` gives them."""
        data = self.data.validation
        found = evaluate(partial(self.eval_step, conditioning, head), data.batches(), place, data.size)
        return [self.experiment.found_in(found, number) for number in range(len(self.members))]

    def of_prompts(self, prompts: list[Prompt]) -> tuple:
        """The conditioning and the heads of the tasks' prompts, as `evaluate` takes them."""
        return jax.tree.map(jnp.asarray, self.experiment.learned(prompts))

    def stop(self, state: TrainState) -> TrainState:
        """The state as it is: a task that has stopped learns on, and nothing is kept of that."""
        return state

    def evaluated(self, number: int) -> None:
        """Says what an evaluation found."""
        figures = [(m.name, m.figures.first, m.evaluated) for m in self.members if m.running and m.evaluated]
        if figures:
            told = ", ".join(f"{task} {first} {found[first]:.4f}" for task, first, found in figures)
            self._reporter.say(f"step {number}: validation {told}")

    def finish(
        self, results: dict[int, dict], prompts: dict[int, Prompt], trainable: dict
    ) -> tuple[dict[str, Prompt], dict]:
        """The best prompts by task, and what is said of the run: the tasks' results, and means of them.

        What the tasks have learned together by the last step is written as a prompt, from which one for a new task may start.
        """
        common = self.experiment.method.common(trainable)
        if common is not None:
            info = next(iter(prompts.values())).info
            info = {key: info[key] for key in ("method", "backbone", "tokenizer")}
            save_prompt(Prompt(on_host(common, self.experiment.backbone.mesh), {}, info), self._run_dir / COMMON)
        by_task = {self.members[at].name: result for at, result in results.items()}
        summary: dict[str, Any] = {"step": next(iter(results.values()))["step"], "tasks": by_task}
        if self.data.validation is not None:
            summary = means(self.experiment, by_task) | summary
        write_result(self._run_dir, summary)
        return {self.members[at].name: prompt for at, prompt in prompts.items()}, summary


def gradient(forward: Forward, method: PerTask, frozen: dict, trainable: dict, batch: Batch) -> tuple:
    """The loss and the count of each task, and the gradient of the sum of their means, and that it is of one batch."""

    def loss_of(trainable):
        scores = forward(fold(method, trainable), trainable.get("head", {}), frozen, batch)
        own = [batch.answers[TASK] == number for number in range(len(method.parts))]
        losses, counts = (
            jnp.stack([jnp.where(of_task, part, 0.0).sum() for of_task in own])
            for part in (scores.losses, scores.counts)
        )
        counts = summed(counts)
        return jnp.where(counts > 0, losses / jnp.where(counts > 0, counts, 1.0), 0.0).sum(), (losses, counts)

    (_, (losses, counts)), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable)
    losses, grads = summed((losses, grads))
    return losses, counts, grads, jnp.ones(())


def _update(method: PerTask, optimizer: optax.GradientTransformation, state: TrainState, total: tuple) -> tuple:
    """As `step.update`, of what `gradient` gives; the metrics are `[tasks]`."""
    losses, counts, grads, batches = total
    grads = jax.tree.map(lambda g: g / batches, grads)
    norms = jnp.stack([optax.tree.norm(method.of(task, grads)) for task in method.parts])
    metrics = {"loss": losses / jnp.maximum(counts, 1e-9), "count": counts, "grad_norm": norms}
    # Rows are shared: what is not finite in one task's examples may be in others' too.
    state, skipped = applied(method, optimizer, state, grads, metrics)
    return state, {**metrics, "skipped": jnp.broadcast_to(skipped, norms.shape)}
