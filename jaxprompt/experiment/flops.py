"""How many FLOPs a step of prompt tuning needs, counted on real tokens: padding and recomputation earn nothing."""

from dataclasses import dataclass
from functools import cache, partial
from math import prod

import flax.linen as nn
import jax
import numpy as np

from jaxprompt.experiment.build import Experiment
from jaxprompt.models import init_params
from jaxprompt.objectives import Similarity, Verbalizer
from jaxprompt.objectives.pooling import Pooled
from jaxprompt.ops.views import visibility
from jaxprompt.text.hoisting import split_constant
from jaxprompt.types import Batch, Inputs

FORMULA = """\
FLOPs that a step needs, on real tokens, with frozen weights:
  layers     4 x N x tokens: forward 2N, backward to the activations 2N, no weight gradient. N: parameters of the
             layers' matmuls. The prompt that all examples share is counted once per step; constant text before the
             first soft token costs nothing (it is computed once per run).
  ends       Not counted of a decoder or a pooled token: all but the keys and values of the last layer where nothing
             is scored; the backward pass of the first layer's queries, keys and values where no soft token stands.
  attention  12 x heads x head_dim x visible (query, key) pairs, per layer: scores and values 4, backward 8; 8 in all
             for keys that are constant. In the last layer, of the scored queries alone.
  ahead      of a decoder's text before its soft tokens, computed by itself: 2 x N but for the last layer's end and 4 x pairs,
             or nothing where its keys and values are kept (`data.cache`); those are constant keys.
  encoder    beside a prompt of the decoder's alone: 2 x N and 4 x pairs, or nothing but the decoder's keys and values of
             it where its states are kept (`data.cache`).
  head       4 x width x columns x scored positions; columns: the label words of a one-token verbalizer, the classes
             of a classifier (6: its weight has a gradient), else the vocabulary."""


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one step by part, and the tokens that they are counted on, the `shared` ones counted once."""

    layers: float
    attention: float
    head: float
    tokens: int
    shared: int = 0

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.head


def step_flops(experiment: Experiment, hoisted: tuple[int, ...], batch: Batch) -> StepFlops:
    """Counts one batch.

    Args:
      hoisted: the leading ids that were taken off the examples (`TrainingData.hoisted`).
    """
    backbone, prefix_tuning = experiment.backbone, experiment.config.method.name == "prefix"
    params = stacked_shapes(backbone.module)
    learned = experiment.config.method.length if prefix_tuning else 0
    if backbone.seq2seq:
        sides = backbone.config.encoder, backbone.config.decoder
        # Keys and values of the cross-attention are computed of the encoder's tokens.
        cross_kv = sum(_size(params["decoder"]["layers"]["cross"][name]) for name in "kv")
        weights = _size(params["encoder"]["layers"]) + cross_kv, _size(params["decoder"]["layers"]) - cross_kv
        read, written = _tokens(batch.source), _tokens(batch.inputs)
        pairs = _pairs(batch.source, False) + learned * read, _pairs(batch.inputs, True) + learned * written
        crossed = _per_pair(sides[1]) * int(_crossed(batch).sum())
        layers = 4.0 * (weights[0] * read + weights[1] * written)
        attention = 12.0 * (_per_pair(sides[0]) * pairs[0] + _per_pair(sides[1]) * pairs[1] + crossed)
        if experiment.source_is_bare:
            computed = cross_kv if batch.ahead is not None else weights[0]
            layers = 2.0 * computed * read + 4.0 * weights[1] * written
            of_source = 0.0 if batch.ahead is not None else 4.0 * _per_pair(sides[0]) * pairs[0]
            attention = of_source + 12.0 * _per_pair(sides[1]) * pairs[1] + 8.0 * crossed
        return StepFlops(layers, attention, _head(experiment, batch), read + written)
    hard, rest = split_constant(hoisted, backbone.vocab_size)
    if prefix_tuning:
        hard, rest = hard[:0], hoisted
    shared, tokens = len(rest), _tokens(batch.inputs)
    scored = _scored(experiment, batch)
    attends, depth = params["layers"]["attention"], backbone.num_layers
    query, kv = (sum(_size(attends[name]) for name in names) / depth for names in ("q", "kv"))
    layer = _size(params["layers"]) / depth
    last = int(scored.sum())  # tokens of the rows that the last layer is needed at
    layers = 4.0 * ((layer * (depth - 1) + kv) * (tokens + shared) + (layer - kv) * last)
    if not (np.asarray(batch.inputs.ids) >= backbone.vocab_size).any():
        layers -= 2.0 * (kv * tokens + query * (tokens if depth > 1 else last))
    seen = _seen(batch.inputs, backbone.causal)
    below = int(seen.sum()) + tokens * (shared + learned) + shared * (shared + 1) // 2 + shared * learned
    at_last = int(seen[scored].sum()) + last * (shared + learned)
    constant = len(hard) * ((depth - 1) * (tokens + shared) + last)
    attention = 12.0 * ((depth - 1) * below + at_last) + 8.0 * constant
    if batch.source is not None:
        ahead, crossed = _tokens(batch.source), _crossed(batch)
        attention += 8.0 * ((depth - 1) * crossed.sum() + crossed[scored].sum())
        if batch.ahead is None:
            layers += 2.0 * (layer * (depth - 1) + kv) * ahead
            attention += 4.0 * (depth - 1) * (_pairs(batch.source, True) + len(hoisted) * ahead)
    attention *= _per_pair(backbone.config) / depth
    return StepFlops(layers, attention, _head(experiment, batch), tokens + shared, shared)


@cache
def stacked_shapes(module: nn.Module) -> dict:
    """The shapes of a model's parameters, its layers stacked, however a backbone keeps them."""
    return nn.meta.unbox(jax.eval_shape(partial(init_params, module), jax.random.key(0)))


def _scored(experiment: Experiment, batch: Batch) -> np.ndarray:
    """Which tokens `[rows, seq]` the loss reads the last hidden states of."""
    real = np.asarray(batch.inputs.segments) > 0
    objective = experiment.objective
    if isinstance(objective, Pooled):
        if objective.how == "mean":
            return real & (np.asarray(batch.inputs.ids) < experiment.backbone.vocab_size)
        at, used = batch.pool_at, batch.index >= 0
    else:
        at, used = batch.target_at, batch.target_weight > 0
    scored = np.zeros_like(real)
    rows = np.broadcast_to(np.arange(len(real))[:, None], at.shape)
    scored[rows[used], np.asarray(at)[used]] = True
    return scored


def _head(experiment: Experiment, batch: Batch) -> float:
    backbone, objective = experiment.backbone, experiment.objective
    examples = int((batch.index >= 0).sum())
    if isinstance(objective, Similarity):
        return 4.0 * backbone.hidden_size * len(objective.label_names) * examples
    if isinstance(objective, Pooled):  # its head's weight has a gradient
        return 6.0 * backbone.hidden_size * max(1, len(objective.label_names)) * examples
    if isinstance(objective, Verbalizer) and objective.columns is not None:
        return 4.0 * backbone.hidden_size * len(objective.columns) * examples
    return 4.0 * backbone.hidden_size * backbone.vocab_size * int(batch.target_weight.sum())


def _size(layers) -> int:
    """Parameters of the matmuls of stacked layers: arrays `[layers, out, in]`."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(layers) if leaf.ndim == 3)


def _per_pair(block) -> int:
    return block.num_layers * block.num_heads * block.head_dim


def _tokens(inputs: Inputs) -> int:
    return int((np.asarray(inputs.segments) > 0).sum())


def _crossed(batch: Batch) -> np.ndarray:
    """Which real tokens of the rows see which of the source."""
    rows, source = np.asarray(batch.inputs.segments), np.asarray(batch.source.segments)
    return (rows[:, :, None] == source[:, None, :]) & (rows[:, :, None] > 0)


def _seen(inputs: Inputs, causal: bool) -> np.ndarray:
    """Which real tokens see which."""
    return np.asarray(visibility(inputs, causal)) & (np.asarray(inputs.segments) > 0)[:, :, None]


def _pairs(inputs: Inputs, causal: bool) -> int:
    return int(_seen(inputs, causal).sum())
