"""From what is learned and a batch to scores: backbone, method and objective put together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.methods import Method
from jaxprompt.objectives import Objective, Scores
from jaxprompt.text.hoisting import split_constant
from jaxprompt.types import Batch


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
