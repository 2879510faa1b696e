"""Optax optimizers for prompts and heads."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import optax

from jaxprompt.config import OptimizerOptions
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.methods import FROZEN

SCHEDULES = ("constant", "linear", "cosine")
# A number, or one of each member of a population, traced.
Number = float | jax.Array


def numbers_of(config: OptimizerOptions, groups: Iterable[str]) -> dict[str, float]:
    """What of an optimizer is a number: the members of a population may differ in it.

    Raises InputError for a rate of a group that there is not.
    """
    learned = [name for name in groups if name != FROZEN]
    for name in config.rates:
        if name not in learned:
            raise InputError(f"optimizer.rates has {name!r}, which is not learned here{did_you_mean(name, learned)}")
    found = {f"rates.{name}": config.rates.get(name, config.learning_rate) for name in learned}
    found |= {name: getattr(config, name) for name in ("b1", "b2", "momentum") if hasattr(config, name)}
    return found | {
        "weight_decay": config.weight_decay,
        "clip_norm": float("inf") if config.clip_norm is None else config.clip_norm,
        "warmup_steps": config.warmup_steps,
        "schedule": SCHEDULES.index(config.schedule),
    }


def make_schedule(peak: Number, warmup_steps: Number, schedule: Number, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, or decay to 0 at `steps`.

    Args:
      schedule: place in `SCHEDULES`.
    """

    def rate(step):
        warmup = jnp.minimum(warmup_steps, steps)
        done = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
        after = jnp.stack([jnp.ones_like(done), 1.0 - done, 0.5 * (1.0 + jnp.cos(jnp.pi * done))])
        return peak * jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1), after[schedule])

    return rate


def make_optimizer(
    config: OptimizerOptions, steps: int, groups: Iterable[str], numbers: Mapping[str, Number] | None = None
) -> optax.GradientTransformation:
    """The optimizer of a trainable tree of these groups, each of which may have a learning rate of its own.

    Clipping is by the global norm over all groups. Raises InputError for a rate of a group that there is not.

    Args:
      numbers: in place of the config's, by the names of `numbers_of`; they may be traced.
    """
    groups = list(groups)
    numbers = numbers_of(config, groups) if numbers is None else numbers
    parts = {
        name: _one(
            config.name,
            make_schedule(numbers[f"rates.{name}"], numbers["warmup_steps"], numbers["schedule"], steps),
            numbers,
        )
        for name in groups
        if name != FROZEN
    }
    if FROZEN in groups:
        parts[FROZEN] = optax.set_to_zero()
    optimizer = optax.multi_transform(
        parts, lambda tree: {k: jax.tree.map(lambda _, k=k: k, v) for k, v in tree.items()}
    )
    if _is(numbers["clip_norm"], float("inf")):
        return optimizer
    return optax.chain(optax.clip_by_global_norm(numbers["clip_norm"]), optimizer)


def _is(number: Number, value: float) -> bool:
    """Whether it is known to be this, before the program runs: then something is left out of it."""
    return not isinstance(number, jax.Array) and number == value


def _one(name: str, rate: optax.Schedule, numbers: Mapping[str, Number]) -> optax.GradientTransformation:
    weight_decay = numbers["weight_decay"]
    if name == "adafactor":
        # Lester et al. 2021 as released: no scaling by the parameter's size, second-moment decay 0.8.
        return optax.adafactor(
            rate,
            decay_rate=0.8,
            multiply_by_parameter_scale=False,
            weight_decay_rate=None if _is(weight_decay, 0.0) else weight_decay,
        )
    if name == "sgd":
        decay = [] if _is(weight_decay, 0.0) else [optax.add_decayed_weights(weight_decay)]
        momentum = None if _is(numbers["momentum"], 0.0) else numbers["momentum"]
        return optax.chain(*decay, optax.sgd(rate, momentum=momentum))
    return optax.adamw(rate, b1=numbers["b1"], b2=numbers["b2"], weight_decay=weight_decay)
