"""A run that learns one prompt."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.run_folder import CACHE
from jaxprompt.methods import fold
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.evaluate import Evaluation, evaluate, make_eval_step
from jaxprompt.training.member import Member
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import TrainState, init_state, make_train_step


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
    def of(cls, experiment: Experiment, run_dir: Path, reporter: Reporter, ended: bool) -> "Alone":
        data = TrainingData.load(experiment)
        # A run that is at its end computes too little more.
        data = data if ended else data.cached(experiment, run_dir / CACHE)
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

    def finish(self, results: dict[int, dict], prompts: dict[int, Prompt], trainable: dict) -> tuple[Prompt, dict]:
        """The best prompt, and what is said of the run; writes what there is beyond members' results and prompts."""
        return prompts[0], results[0]
