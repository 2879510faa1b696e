"""Leading rows of a prompt that stay where they start."""

import jax
import jax.numpy as jnp

from jaxprompt.errors import InputError
from jaxprompt.methods.base import FROZEN


def check_frozen(frozen: int, length: int, what: str) -> None:
    """Raises InputError where nothing is left to learn."""
    if frozen and frozen >= length:
        raise InputError(f"method.frozen {frozen} leaves none of {length} {what} to learn: lower it")


def split_frozen(arrays: dict[str, jax.Array], frozen: int, axis: int) -> dict[str, dict]:
    """The groups of a prompt of which the first so many rows, along an axis, are not learned."""
    if not frozen:
        return {"prompt": arrays}
    parts = {name: jnp.split(array, [frozen], axis=axis) for name, array in arrays.items()}
    return {
        "prompt": {name: learned for name, (_, learned) in parts.items()},
        FROZEN: {name: kept for name, (kept, _) in parts.items()},
    }


def with_frozen(trainable: dict[str, dict], axis: int) -> dict[str, jax.Array]:
    """The whole arrays again; no gradient reaches the frozen rows."""
    if FROZEN not in trainable:
        return trainable["prompt"]
    kept = jax.lax.stop_gradient(trainable[FROZEN])
    return {name: jnp.concatenate([kept[name], array], axis=axis) for name, array in trainable["prompt"].items()}
