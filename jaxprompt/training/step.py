"""The pure train step. No I/O here."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import Ahead
from jaxprompt.machine.sharding import in_parts, replicated, summed
from jaxprompt.methods import Method, fold
from jaxprompt.models.adapted import adapted
from jaxprompt.scoring.forward import Forward
from jaxprompt.types import Batch


class TrainState(struct.PyTreeNode):
    """All that training changes.

    Attributes:
      step: optimizer steps taken.
      trainable: the groups that are learned, `{"prompt": ..., "head": ...}`, fp32.
      opt_state: Optax's state.
      rng: the key that random methods draw from.
      running: whether a member of a population (`training.population`) learns on; None: this is no such member.
    """

    step: jax.Array
    trainable: dict
    opt_state: optax.OptState
    rng: jax.Array
    running: jax.Array | None = None


def init_state(trainable: dict, optimizer: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """The state before the first step. The arrays of `trainable` are copied: a step consumes its state."""
    trainable = jax.tree.map(lambda x: jnp.array(x, jnp.float32), trainable)
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), jax.random.key(seed))


def make_train_step(
    forward: Forward, method: Method, optimizer: optax.GradientTransformation, frozen: dict | None = None
) -> Callable[[TrainState, Batch | list[Batch]], tuple[TrainState, dict]]:
    """Returns `step(state, batch) -> (state, metrics)`, compiled.

    Gradients are taken with respect to `state.trainable` alone. The frozen parameters are an argument of the compiled
    function, not constants of it, so the program stays small and keeps their sharding. A list of batches is one
    optimizer step: their gradients are added, each weighted by what it scored. The state passed in is consumed. A step whose
    loss, gradient or result is not finite changes nothing but its number.

    `step.jitted` is the compiled function and `step.frozen` its first argument, for those who lower or inspect it.
    `step.first_gradient` and `step.add_gradient` are those of a list's first batch and of each further one.
    `step.ahead` compiles it before the first call, for which `frozen` may be shapes; by the first call it must be filled.

    Metrics: `loss` (mean over what was scored), `count`, `grad_norm`, `skipped` (whether the step changed nothing).
    """
    frozen = forward.frozen() if frozen is None else frozen
    of_step = partial(gradient, forward, method), partial(update, method, optimizer)
    return compiled_step(*of_step, frozen, forward.backbone.mesh)


def gradient(
    forward: Forward, method: Method, frozen: dict, trainable: dict, batch: Batch
) -> tuple[jax.Array, jax.Array, dict]:
    """The loss of a batch, how much was scored, and the gradient of that sum; see `compiled_step`."""

    def loss_of(trainable):
        conditioning = fold(method, trainable)
        scores = forward(conditioning, trainable.get("head", {}), frozen, batch)
        loss, count = scores.loss, scores.count
        if hasattr(method, "further_loss"):
            params = adapted(frozen["params"], conditioning)
            more = method.further_loss(forward.backbone, params, conditioning, (batch.index >= 0).sum())
            loss, count = loss + more[0], count + more[1]
        return loss, count

    (loss, count), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable)
    return summed((loss, count, grads))


def update(
    method: Method, optimizer: optax.GradientTransformation, state: TrainState, total: tuple
) -> tuple[TrainState, dict]:
    """The state after a step, of what `gradient` gives (or of sums of that), and the step's metrics."""
    loss, count, grads = total
    scale = 1.0 / jnp.maximum(count, 1.0)
    grads = jax.tree.map(lambda g: g * scale, grads)
    metrics = {"loss": loss * scale, "count": count, "grad_norm": optax.tree.norm(grads)}
    state, metrics["skipped"] = applied(method, optimizer, state, grads, metrics)
    return state, metrics


def applied(
    method: Method, optimizer: optax.GradientTransformation, state: TrainState, grads: dict, metrics: dict
) -> tuple[TrainState, jax.Array]:
    """The state behind a step of the optimizer along a gradient, and whether it is the same, because something is not finite.

    Optax's state is then the same too, so that the learning rate is that of the steps that were taken.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    if hasattr(method, "project"):
        trainable = method.project(trainable)
    looked_at = (metrics["loss"], metrics["grad_norm"], trainable)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(looked_at)]).all()
    trainable, opt_state = jax.tree.map(
        partial(jnp.where, finite), (trainable, opt_state), (state.trainable, state.opt_state)
    )
    return state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), ~finite


def compiled_step(
    gradient: Callable, update: Callable, frozen: dict, mesh: Mesh
) -> Callable[[TrainState, Batch | list[Batch]], tuple[TrainState, dict]]:
    """The step, as `make_train_step` returns it, of `gradient(frozen, trainable, batch)` and `update(state, total)`.

    `gradient` may be given some of a batch's rows alone, and sums what it returns by `sharding.summed`.
    """
    gradient = in_parts(gradient, mesh)

    def train_step(frozen, state, batch):
        return update(state, gradient(frozen, state.trainable, batch))

    def add_gradient(frozen, trainable, total, batch):
        return jax.tree.map(jnp.add, total, gradient(frozen, trainable, batch))

    # The state comes out where it goes in: elsewhere, a second step would be another program. Every process has the figures.
    whole = replicated(mesh)
    train_step = compiler.jit(train_step, donate_argnames="state", out_shardings=whole)
    add_gradient = compiler.jit(add_gradient, donate_argnames="total")
    first_gradient = compiler.jit(gradient)
    apply_update = compiler.jit(update, donate_argnums=0, out_shardings=whole)
    ahead = Ahead(train_step)

    def step(state: TrainState, batch: Batch | list[Batch]) -> tuple[TrainState, dict]:
        if isinstance(batch, Batch):
            return ahead(frozen, state, batch)
        total = first_gradient(frozen, state.trainable, batch[0])
        for part in batch[1:]:
            total = add_gradient(frozen, state.trainable, total, part)
        return apply_update(state, total)

    step.jitted, step.frozen, step.ahead = train_step, frozen, ahead
    step.first_gradient, step.add_gradient = first_gradient, add_gradient
    return step
