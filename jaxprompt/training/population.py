"""Many prompts at once: the members of a population, learned by one compiled step against one resident backbone.

The step is `jax.vmap`, over the members, of the gradient and the optimizer's update of one. The frozen parameters have no
member axis: a product with a weight is one, of the rows of all members (on a CPU, of a few: `machine.members`). Each member
ends as its own separate run does, so what it draws is its own: members of one data seed (and one template) share the batches
of a step; members of others have batches of their own, of the same examples as in their separate runs, in rows of shapes
that are planned for all of them. Text that no prompt reaches is computed once where batches are shared. Numbers of the
optimizer and of the method that differ are traced. A shorter prompt is padded: its examples name its own rows alone, and
further keys of a prefix are not seen.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config
from jaxprompt.config.population import MAY_VARY, members_of
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.population import experiments_of, load_together
from jaxprompt.machine.background import Background
from jaxprompt.machine.members import for_each, padded
from jaxprompt.machine.sharding import place, replicated
from jaxprompt.methods import fold
from jaxprompt.methods.numbers import numbers_of as numbers_of_method
from jaxprompt.methods.numbers import rest_of, with_numbers
from jaxprompt.prompts import Prompt, save_prompt
from jaxprompt.reports.spread import spread
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, evaluate_each, make_eval_step
from jaxprompt.training.member import Member, write_result
from jaxprompt.training.optim import make_optimizer, numbers_of
from jaxprompt.training.step import TrainState, compiled_step, gradient, init_state, update

# What of a conditioning may be of several lengths.
_OF_LENGTHS = ("soft", "prefix", "source_prefix")


class Population:
    """What the loop needs of a run that learns several prompts, as `loop.Alone` has it of one.

    Attributes:
      experiment: a member's, of which what all share is asked.
      trainable: shapes of what is learned, with a leading axis of members.
    """

    def __init__(self, config: Config, experiments: Mapping[str, Experiment], run_dir: Path, reporter: Reporter):
        self.config, self._run_dir, self._reporter = config, run_dir, reporter
        self._experiments = list(experiments.values())
        self.experiment = self._experiments[0]
        self._own = [experiment.trainable_shapes() for experiment in self._experiments]
        self._check_shapes()
        self.trainable = jax.eval_shape(partial(jax.tree.map, padded), *self._own)
        keys = [_keys(experiment, shapes) for experiment, shapes in zip(self._experiments, self._own, strict=True)]
        lengths = [sum(leaf.size for leaf in jax.tree.leaves(shapes)) for shapes in self._own]
        # Of several lengths, the method of the longest: the others' rows are among its rows.
        self._method = self._experiments[int(np.argmax(lengths))].method
        self._method_numbers = self._differing_of_method()
        self._optimizer_numbers = self._differing_of_optimizer()
        self.data = load_together(self._experiments, keys)
        self.members = [
            Member(name, experiment, self.data, Path(experiment.config.run_dir), reporter)
            for name, experiment in experiments.items()
        ]
        self.batches = len(self.members)
        self._seeds = np.array([e.config.seed_of("sampling") for e in self._experiments], np.uint32)
        self.fold = jax.jit(self._fold_all)

    @classmethod
    def of(
        cls, config: Config, backbone: Backbone | None, run_dir: Path, reporter: Reporter, background: Background
    ) -> "Population":
        """The population of a config. Raises InputError for members that one program cannot learn."""
        configs = members_of(config, run_dir)
        experiments = experiments_of(list(configs.values()), backbone, reporter, background)
        return cls(config, dict(zip(configs, experiments, strict=True)), run_dir, reporter)

    # --- what members differ in

    @property
    def _of_lengths(self) -> bool:
        return bool({"prompt_length", "method.length"} & self.config.population.keys())

    def _check_shapes(self) -> None:
        """Raises InputError where members learn arrays of several shapes, but for the length of a prompt."""
        varied = ", ".join(key for key in self.config.population if key.startswith("method."))
        first = self._own[0]
        for other in self._own[1:]:
            same = jax.tree.structure(first) == jax.tree.structure(other)
            if not same or (not self._of_lengths and _shapes(first) != _shapes(other)):
                raise InputError(
                    f"population has {varied}, by which arrays of other shapes are learned: it may have {MAY_VARY}"
                )
        if len(set(map(_shapes, self._own))) == 1:
            return
        kept = jax.eval_shape(self.experiment.method.apply, first)
        if any(
            getattr(kept, field.name) is not None for field in dataclasses.fields(kept) if field.name not in _OF_LENGTHS
        ):
            raise InputError(
                f"population has prompts of several lengths, which are those of soft rows and of a prefix's keys, not of "
                f"all that method {self.experiment.method.name} learns: leave them out"
            )
        if self.experiment.config.optimizer.name == "adafactor":
            raise InputError(
                "population has prompts of several lengths, and adafactor scales a prompt's rows by all of them: set "
                "optimizer.name to adamw or sgd"
            )

    def _differing_of_method(self) -> dict[str, np.ndarray]:
        methods = [experiment.method for experiment in self._experiments]
        found = _differing([numbers_of_method(method) for method in methods])
        rests = [rest_of(method) for method in methods]
        if any(rest != rests[0] for rest in rests):
            varied = ", ".join(key for key in self.config.population if key.startswith("method."))
            raise InputError(f"population has {varied}, by which methods compute otherwise: it may have {MAY_VARY}")
        return found

    def _differing_of_optimizer(self) -> dict[str, np.ndarray]:
        return _differing([numbers_of(e.config.optimizer, self.trainable) for e in self._experiments])

    def _optimizer(self, numbers: Mapping[str, Any]):
        config, groups = self.experiment.config, list(self.trainable)
        return make_optimizer(
            config.optimizer, config.train.steps, groups, {**numbers_of(config.optimizer, groups), **numbers}
        )

    # --- what the loop asks for

    def start(self, trainable: dict) -> TrainState:
        """The state before the first step, with a leading axis of members."""

        def one(numbers, trainable, seed):
            return init_state(trainable, self._optimizer(numbers), seed)

        state = jax.vmap(one)(self._optimizer_numbers, trainable, self._seeds)
        return state.replace(running=jnp.ones(len(self.members), bool))

    def compile(self, frozen: dict) -> None:
        """Makes the steps, for frozen parameters of which there may be shapes only."""
        forward = self.experiment.forward(self.data.hoisted)

        def gradients(frozen, trainable, batch):
            def one(numbers, trainable, batch):
                return gradient(forward, with_numbers(self._method, numbers), frozen, trainable, batch)

            members = (self._method_numbers, trainable)
            return for_each(one, members, batch, self.experiment.backbone.mesh, forward.reads_apart(batch))

        def updates(state, total):
            def one(of_method, of_optimizer, state, total):
                method = with_numbers(self._method, of_method)
                found, figures = update(method, self._optimizer(of_optimizer), state, total)
                # One that has stopped stays as it was, whatever becomes of the others.
                changed = {
                    name: jax.tree.map(partial(jnp.where, state.running), getattr(found, name), getattr(state, name))
                    for name in ("step", "trainable", "opt_state")
                }
                return state.replace(**changed), figures

            return jax.vmap(one)(self._method_numbers, self._optimizer_numbers, state, total)

        self.step = compiled_step(gradients, updates, frozen, self.experiment.backbone.mesh)
        self.eval_step = make_eval_step(forward, frozen, prompts=True)

    def loaded(self) -> dict:
        """Waits for the weights, and returns what is learned at step 0."""
        backbone = self.experiment.loaded().backbone
        self._experiments = [dataclasses.replace(e, backbone=backbone) for e in self._experiments]
        self.experiment = self._experiments[0]
        starts = []
        for member, experiment in zip(self.members, self._experiments, strict=True):
            member.experiment = experiment
            starts.append(experiment.init_trainable())
        stacked = jax.tree.map(padded, *starts)
        self._check_lengths(starts, stacked)
        return stacked

    def _check_lengths(self, starts: Sequence[dict], stacked: dict) -> None:
        """Raises InputError for a method whose shorter prompts are not the beginnings of longer ones."""
        for at, (experiment, own) in enumerate(zip(self._experiments, starts, strict=True)):
            if not self._of_lengths or _shapes(own) == _shapes(jax.tree.map(lambda x: x[0], stacked)):
                continue
            short = jax.tree.leaves(fold(experiment.method, own))
            long = jax.tree.leaves(fold(self._method, jax.tree.map(lambda x, at=at: x[at], stacked)))
            for one, other in zip(short, long, strict=True):
                if not np.allclose(one, other[tuple(map(slice, one.shape))], rtol=1e-5, atol=1e-6):
                    name = experiment.method.name
                    raise InputError(
                        f"population has prompts of several lengths, of which a row by method {name} depends on how many "
                        "there are: leave that out"
                    )

    def _fold_all(self, trainable: dict):
        def one(numbers, trainable):
            return fold(with_numbers(self._method, numbers), trainable)

        return jax.vmap(one)(self._method_numbers, trainable)

    def trainable_of(self, trainable: dict, number: int) -> dict:
        """What a member learns."""

        def own(array, shape):
            return np.asarray(array)[number][tuple(map(slice, shape.shape))]

        return jax.tree.map(own, trainable, self._own[number])

    def evaluate(self, conditioning, head, place) -> list[Evaluation]:
        """Scores the validation data under conditionings and heads as `fold` gives them."""
        validation, step = self.data.validation, partial(self.eval_step, conditioning, head)
        return evaluate_each(step, validation.batches(), place, validation.size, len(self.members))

    def of_prompts(self, prompts: list[Prompt]) -> tuple:
        """The conditionings and heads of prompts, one for each member, as `evaluate` takes them."""
        prefixes = [prompt.prefix for prompt in prompts if prompt.prefix is not None]
        longest = max((prefix.length for prefix in prefixes), default=0)

        def of_one(prompt):
            prefix = None if prompt.prefix is None else prompt.prefix.replace(length=longest)
            return prompt.conditioning.replace(prefix=prefix), prompt.head

        return jax.tree.map(padded, *map(of_one, prompts))

    def stop(self, state: TrainState) -> TrainState:
        """The state in which members that have stopped learn no more."""
        running = np.array([member.running for member in self.members])
        if (np.asarray(state.running) == running).all():
            return state
        return state.replace(running=place(running, replicated(self.experiment.backbone.mesh)))

    def evaluated(self, number: int) -> None:
        """Says what an evaluation found, beyond what members say."""
        name = self.members[0].figures.first
        values = [member.evaluated[name] for member in self.members if member.running and member.evaluated]
        if values:
            self._reporter.say(f"step {number}: validation {name} {min(values):.4f} to {max(values):.4f}")

    def finish(self, results: dict[int, dict], prompts: dict[int, Prompt], trainable: dict) -> tuple[Prompt, dict]:
        """The best prompt, and what is said of the run; writes what there is beyond members' results and prompts.

        That is the best prompt once more, and a result with the best member's name and figures, and for each figure of the
        members its mean, standard deviation, least and largest value; without validation data, the best has the lowest
        training loss.
        """
        quality = self.members[0].figures.quality

        def worth(at):
            if self.data.validation is None:
                return (-results[at]["train_loss"],)
            return quality(results[at])

        best = max(results, key=worth)
        names = {at: self.members[at].name for at in results}
        summary = {
            "best_member": names[best],
            **results[best],
            **spread(list(results.values())),
            "members": {names[at]: result for at, result in results.items()},
        }
        failed = {member.name: member.progress["failed"] for member in self.members if member.failed}
        if failed:
            summary["failed"] = failed
        save_prompt(prompts[best], self._run_dir)
        write_result(self._run_dir, summary)
        self._reporter.members(summary, self.members[0].figures.first)
        return prompts[best], summary


def _shapes(tree: Any) -> tuple:
    return tuple(leaf.shape for leaf in jax.tree.leaves(tree))


def _keys(experiment: Experiment, trainable: dict) -> int:
    """How many keys a learned prefix has; 0: there is none."""
    prefix = jax.eval_shape(experiment.method.apply, trainable).prefix
    return 0 if prefix is None else prefix.keys.shape[1]


def _differing(numbers: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Of numbers by name, for each member, those that are not the same for all."""
    found = {name: np.array([one[name] for one in numbers]) for name in numbers[0]}
    kinds = {"i": np.int32, "f": np.float32}
    return {name: values.astype(kinds[values.dtype.kind]) for name, values in found.items() if len(set(values)) > 1}
