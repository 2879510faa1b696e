"""What training holds beside the frozen weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprompt.methods import FROZEN


def state_cost(trainable: dict, optimizer: optax.GradientTransformation, params: Any, dtype: Any) -> str | None:
    """Says what is learned and what that takes, where it is a tenth of the model or more; else None.

    Args:
      trainable, params: of the run and of the backbone; shapes and types are enough.
      dtype: the type that the backbone computes in.
    """
    learned = {name: part for name, part in trainable.items() if name != FROZEN}
    count, model = _bytes(learned) // 4, _bytes(params)
    if 10 * count * jnp.dtype(dtype).itemsize < model:
        return None
    state = _bytes(jax.eval_shape(optimizer.init, trainable))
    each, added = _bytes(learned) / 1e9, count * jnp.dtype(dtype).itemsize
    return (
        f"learns {count:,} numbers: on every device {each:.3f} GB of them, {each:.3f} GB of gradients and {state / 1e9:.3f} GB of "
        f"optimizer state, beside {(model + added) / 1e9:.3f} GB of weights, as they are and as they become"
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
