"""Optax optimizers for prompts and heads."""

from collections.abc import Iterable

import jax
import optax

from jaxprompt.config import OptimizerOptions
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.methods import FROZEN


def make_schedule(config: OptimizerOptions, peak: float, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, or decay to 0 at `steps`."""
    warmup = min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    if config.schedule == "linear":
        after = optax.linear_schedule(peak, 0.0, rest)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest)
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def make_optimizer(config: OptimizerOptions, steps: int, groups: Iterable[str]) -> optax.GradientTransformation:
    """The optimizer of a trainable tree of these groups, each of which may have a learning rate of its own.

    Clipping is by the global norm over all groups. Raises InputError for a rate of a group that there is not.
    """
    groups = list(groups)
    learned = [name for name in groups if name != FROZEN]
    for name in config.rates:
        if name not in learned:
            raise InputError(f"optimizer.rates has {name!r}, which is not learned here{did_you_mean(name, learned)}")
    rates = {name: config.rates.get(name, config.learning_rate) for name in learned}
    parts = {label: _one(config, make_schedule(config, rate, steps)) for label, rate in rates.items()}
    if FROZEN in groups:
        parts[FROZEN] = optax.set_to_zero()
    optimizer = optax.multi_transform(
        parts, lambda tree: {k: jax.tree.map(lambda _, k=k: k, v) for k, v in tree.items()}
    )
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _one(config: OptimizerOptions, rate: optax.Schedule) -> optax.GradientTransformation:
    if config.name == "adafactor":
        # Lester et al. 2021 as released: no scaling by the parameter's size, second-moment decay 0.8.
        return optax.adafactor(
            rate,
            decay_rate=0.8,
            multiply_by_parameter_scale=False,
            weight_decay_rate=config.weight_decay or None,
        )
    if config.name == "sgd":
        decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
        return optax.chain(*decay, optax.sgd(rate, momentum=config.momentum or None))
    return optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
