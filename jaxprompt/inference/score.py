"""Scores of encoded examples under prompts that are finished."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxprompt.errors import within_memory
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.data import evaluation_data, hoist
from jaxprompt.machine.sharding import place_batch
from jaxprompt.prompts import Prompt
from jaxprompt.scoring.evaluate import Evaluation, evaluate, evaluate_each, make_eval_step, refusal
from jaxprompt.text.encoded import Encoded
from jaxprompt.types import Conditioning


def score(experiment: Experiment, prompt: Prompt, examples: list[Encoded]) -> Evaluation:
    """Scores encoded examples under a prompt, in their order; raises InputError for scores that are not finite."""
    return score_each(experiment, [prompt], examples)[0]


def score_each(experiment: Experiment, prompts: Sequence[Prompt], examples: list[Encoded]) -> list[Evaluation]:
    """As `score`, under prompts of the same shapes: one program, to which the rows go once."""
    hoisted, (examples,) = hoist(experiment, [examples])
    parts = [(prompt.conditioning, prompt.head) for prompt in prompts]
    learned = jax.tree.map(lambda *arrays: jnp.stack(arrays) if len(arrays) > 1 else arrays[0], *parts)
    return scored(experiment, learned, examples, hoisted, len(prompts))


def scored(
    experiment: Experiment,
    learned: tuple[Conditioning, dict],
    examples: list[Encoded],
    hoisted: Sequence,
    prompts: int = 1,
) -> list[Evaluation]:
    """As `score_each`, of examples without their hoisted ids, under a conditioning and a head.

    Args:
      prompts: how many prompts' they are, stacked if there are several.
    """
    step = make_eval_step(experiment.forward(hoisted), prompts=prompts > 1)
    data = evaluation_data(experiment, examples)
    step = partial(step, *jax.tree.map(jnp.asarray, learned))
    mesh = experiment.backbone.mesh
    given = data.batches(), partial(place_batch, mesh=mesh), data.size
    with within_memory("set mesh.fsdp or mesh.tensor, or use a machine with more"):
        found = evaluate_each(step, *given, prompts) if prompts > 1 else [evaluate(step, *given)]
    for one in found:
        if one.not_finite:
            raise refusal(one, experiment.backbone.dtype)
    return found
