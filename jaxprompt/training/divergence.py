"""Why a run stopped: what was not finite in its last steps."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprompt.errors import NotFinite, listed
from jaxprompt.machine.sharding import on_host
from jaxprompt.training.step import TrainState
from jaxprompt.types import Batch, is_stacked


def why_not_finite(learner: Any, state: TrainState, at: int, place: Callable) -> NotFinite:
    """What to say of a member whose steps are not finite any more.

    Args:
      learner: as the loop has it.
      state: it has not changed since the first of these steps.
      at: the member's number.
      place: puts a batch on the devices.
    """
    member = learner.members[at]
    step, config = member.progress["bad_step"], member.experiment.config
    batches = next(learner.data.train_batches(step - 1))
    batches = [batches] if isinstance(batches, Batch) else batches
    scored = [_losses(learner, state, at, place, batch) for batch in batches]
    size = sum(len(losses) for losses in scored)
    numbers = sorted({number + 1 for losses in scored for number, loss in losses if not np.isfinite(loss)})
    if numbers:
        what = f"the loss of example {listed(numbers)} of the training data ({len(numbers)} of {size} in step {step})"
    else:
        what = f"the gradient of step {step}, or what the optimizer makes of it,"
    if numbers and config.dtype == "float16":
        remedy = "the model overflows float16: set dtype to bfloat16"
    elif config.optimizer.clip_norm is None:
        remedy = "lower optimizer.learning_rate, or set optimizer.clip_norm"
    else:
        remedy = "lower optimizer.learning_rate"
    best = member.progress["best_step"]
    kept = "the last prompt" if learner.data.validation is None else f"the best prompt, of step {best},"
    return NotFinite(
        f"{what} is not finite, in {member.progress['bad_steps']} steps in a row (train.max_bad_steps), which were skipped; "
        f"{kept} is kept: in a new run {remedy}"
    )


def _losses(learner: Any, state: TrainState, at: int, place: Callable, batch: Batch) -> list[tuple[int, float]]:
    """The numbers of a batch's examples, from 0, and their losses, under what a member has learned."""
    conditioning, head = learner.fold(state.trainable), state.trainable.get("head", {})
    placed = place(batch)
    scores = learner.eval_step(conditioning, head, placed)
    # Of several processes each has packed the rows that it holds.
    index, losses = on_host((placed.index, scores.losses), learner.experiment.backbone.mesh)
    index = index[at] if is_stacked(batch) else index
    losses = losses[at] if losses.ndim > index.ndim else losses
    return list(zip(index[index >= 0].tolist(), losses[index >= 0].tolist(), strict=True))
