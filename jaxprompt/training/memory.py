"""What training holds beside the frozen weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprompt.methods import FROZEN
from jaxprompt.training.step import TrainState


def state_cost(state: TrainState, params: Any, dtype: Any) -> str | None:
    """Says what is learned and what that takes, where it is a tenth of the model or more; else None.

    Args:
      state, params: of the run and of the backbone; shapes and types are enough.
      dtype: the type that the backbone computes in.
    """
    learned = {name: part for name, part in state.trainable.items() if name != FROZEN}
    count, model = _bytes(learned) // 4, _bytes(params)
    if 10 * count * jnp.dtype(dtype).itemsize < model:
        return None
    held, each, added = _bytes(state.opt_state), _bytes(learned) / 1e9, count * jnp.dtype(dtype).itemsize
    return (
        f"learns {count:,} numbers: on every device {each:.3f} GB of them, {each:.3f} GB of gradients and {held / 1e9:.3f} GB of "
        f"optimizer state, beside {(model + added) / 1e9:.3f} GB of weights, as they are and as they become"
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
