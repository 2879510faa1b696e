"""The pure train and evaluation steps. No I/O here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxprompt.data.hoisting import split_constant
from jaxprompt.methods import Method
from jaxprompt.objectives import Objective, Scores
from jaxprompt.types import Batch


class TrainState(struct.PyTreeNode):
    """All that training changes.

    Attributes:
      step: optimizer steps taken.
      trainable: `{"prompt": ..., "head": ...}`, fp32.
      opt_state: Optax's state.
      rng: the key that random methods draw from.
    """

    step: jax.Array
    trainable: dict
    opt_state: optax.OptState
    rng: jax.Array


@dataclass(frozen=True)
class Forward:
    """From the trainable pytree and a batch to scores: backbone, method and objective put together.

    Attributes:
      hoisted: token ids of the leading part of the template that is the same for every example of the batches; a
        causal backbone computes it once per step (the hard text before the first soft token: once per run).
        Empty for encoders.
      label_vectors: unit vectors `[classes, embed]` of the label texts (similarity).
    """

    backbone: object
    method: Method
    objective: Objective
    hoisted: tuple[int, ...] = ()
    label_vectors: jax.Array | None = None

    def frozen(self) -> dict:
        """Everything that no step changes: the argument that carries it into compiled code, never captured by it."""
        backbone = self.backbone
        frozen = {"params": backbone.params, "labels": self.label_vectors, "hard_prefix": None}
        hard, _ = self._split()
        if hard.size:
            # The compiler sees no gradient through this: constant text before the prompt costs no backward pass.
            frozen["hard_prefix"] = jax.jit(backbone.prefill)(backbone.params, jnp.asarray(hard))
        return frozen

    def __call__(self, trainable: dict, frozen: dict, batch: Batch) -> Scores:
        backbone, params = self.backbone, frozen["params"]
        conditioning = self.method.apply(trainable["prompt"])
        prefix = conditioning.prefix if conditioning.prefix is not None else frozen["hard_prefix"]
        _, shared = self._split()
        prompt = jnp.asarray(shared) if shared.size else None
        inputs = batch.inputs
        if conditioning.prefix is not None:
            inputs = inputs.replace(positions=inputs.positions + conditioning.prefix.length)
        memory = None
        if batch.source is not None:
            memory = backbone.read(params, batch.source, soft=conditioning.soft, prefix=conditioning.source_prefix)
        at = self.objective.positions(batch)
        hidden = backbone.apply(
            params, inputs, soft=conditioning.soft, prefix=prefix, memory=memory, at=at, prompt=prompt
        )
        return self.objective.score(backbone, params, trainable["head"], frozen["labels"], hidden, batch)

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """The hoisted ids that depend on nothing trainable, and the rest of them."""
        hard, rest = split_constant(self.hoisted, self.backbone.vocab_size)
        if self.method.name == "prefix":  # even the first hard token attends to the learned keys
            return hard[:0], np.concatenate([hard, rest])
        return hard, rest


def init_state(trainable: dict, optimizer: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """The state before the first step. The arrays of `trainable` are copied: a step consumes its state."""
    trainable = jax.tree.map(lambda x: jnp.array(x, jnp.float32), trainable)
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), jax.random.key(seed))


def make_train_step(
    forward: Forward, optimizer: optax.GradientTransformation, frozen: dict | None = None
) -> Callable[[TrainState, Batch | list[Batch]], tuple[TrainState, dict]]:
    """Returns `step(state, batch) -> (state, metrics)`, compiled.

    Gradients are taken with respect to `state.trainable` alone. The frozen parameters are an argument of the compiled
    function, not constants of it, so the program stays small and keeps their sharding. A list of batches is one
    optimizer step: their gradients are added, each weighted by what it scored. The state passed in is consumed.

    `step.jitted` is the compiled function and `step.frozen` its first argument, for those who lower or inspect it.

    Metrics: `loss` (mean over what was scored), `count`, `grad_norm`.
    """
    frozen = forward.frozen() if frozen is None else frozen

    def gradient(frozen, trainable, batch):
        def loss_of(trainable):
            scores = forward(trainable, frozen, batch)
            return scores.loss, scores.count

        (loss, count), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        return loss, count, grads

    def update(state, total):
        loss, count, grads = total
        scale = 1.0 / jnp.maximum(count, 1.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        state = state.replace(
            step=state.step + 1, trainable=optax.apply_updates(state.trainable, updates), opt_state=opt_state
        )
        return state, {"loss": loss * scale, "count": count, "grad_norm": optax.tree.norm(grads)}

    @partial(jax.jit, donate_argnames="state")
    def train_step(frozen, state, batch):
        return update(state, gradient(frozen, state.trainable, batch))

    @partial(jax.jit, donate_argnames="total")
    def add_gradient(frozen, trainable, total, batch):
        return jax.tree.map(jnp.add, total, gradient(frozen, trainable, batch))

    first_gradient, apply_update = jax.jit(gradient), jax.jit(update, donate_argnames="state")

    def step(state: TrainState, batch: Batch | list[Batch]) -> tuple[TrainState, dict]:
        if isinstance(batch, Batch):
            return train_step(frozen, state, batch)
        total = first_gradient(frozen, state.trainable, batch[0])
        for part in batch[1:]:
            total = add_gradient(frozen, state.trainable, total, part)
        return apply_update(state, total)

    step.jitted, step.frozen = train_step, frozen
    return step


def make_eval_step(forward: Forward, frozen: dict | None = None) -> Callable[[dict, Batch], Scores]:
    """Returns `evaluate(trainable, batch) -> Scores`, compiled; frozen parameters as in `make_train_step`."""
    frozen = forward.frozen() if frozen is None else frozen

    @jax.jit
    def eval_step(frozen, trainable, batch):
        return forward(trainable, frozen, batch)

    return lambda trainable, batch: eval_step(frozen, trainable, batch)
