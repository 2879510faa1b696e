"""Losses, gradients and texts that a GPU and a CPU must agree on, as plain numbers: each process computes its own."""

import dataclasses
import functools
import zlib

import flax.linen as nn
import jax
import numpy as np

from jaxprompt.backbone import Backbone, load_backbone
from jaxprompt.models import Seq2SeqConfig, build, init_params
from jaxprompt.objectives import DataAccess
from jaxprompt.objectives.classifier import Classifier, ClassifierOptions
from jaxprompt.objectives.generation import Generation
from jaxprompt.scoring.decode import Search, decode
from jaxprompt.scoring.forward import Forward
from jaxprompt.types import Batch, Conditioning, Inputs, Prefix
from tests.conftest import GOLDEN

# The one golden model whose weights were trained; cuDNN takes its heads as they are.
TRAINED = "stories260K"
# Two rows of three segments and padding. Every segment has fewer tokens than the smallest model has positions.
SEGMENTS, SEQ = ((19, 17, 15), (20, 18, 20)), 64
# Tokens of the soft prompt, keys of the prefix (an odd number, so that keys must be padded for cuDNN), scored tokens of a
# row, of which the last one counts for nothing.
SOFT, PREFIX, TARGETS = 4, 3, 8


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, how it is computed, and what of it.

    Attributes:
      folder: the golden model.
      dtype, attention, unroll, quantize: as in `load_backbone`.
      shared: a decoder computes the soft prompt once for all rows; else it stands in every segment.
      classifier: a classifier is learned as well, in place of the vocabulary's log-probabilities.
    """

    folder: str
    dtype: str = "float32"
    attention: str = "xla"
    unroll: bool = False
    quantize: str | None = None
    shared: bool = True
    classifier: bool = False

    def reference(self, dtype: str = "float32") -> "Case":
        """The same in the plainest way."""
        return dataclasses.replace(self, dtype=dtype, attention="xla", unroll=False)


def backbone_of(case: Case) -> Backbone:
    """The golden model, or one like it with heads that cuDNN takes, whose weights are drawn alike in every process."""
    options = {"dtype": case.dtype, "quantize": case.quantize}
    if case.folder == TRAINED:
        return load_backbone(GOLDEN / case.folder, attention=case.attention, unroll=case.unroll, **options)
    golden = load_backbone(GOLDEN / case.folder, attention="xla", unroll=False, **options)
    config = with_wide_heads(golden.config)
    module = build(config, golden.dtype, "dots", golden.mesh, case.attention)
    shapes = jax.eval_shape(lambda: init_params(module, jax.random.key(0)))
    params = jax.tree.map_with_path(functools.partial(drawn, config), nn.meta.unbox(shapes))
    if case.unroll:
        params = apart(params)
    return dataclasses.replace(golden, config=config, module=module, params=jax.device_put(params))


def apart(params):
    """As `models.stack.unstack`, which compiles a program for every shape, of arrays that are not on the device yet."""
    if not isinstance(params, dict):
        return params
    layers, rest = params.get("layers"), {name: apart(tree) for name, tree in params.items() if name != "layers"}
    if layers is None:
        return rest
    of_each = {str(n): jax.tree.map(lambda x, n=n: x[n], layers) for n in range(len(jax.tree.leaves(layers)[0]))}
    return {**rest, "layers": of_each}


def with_wide_heads(config):
    """The architecture, its heads 16 wide unless they are a multiple of 8 already. Rotary pairs stay as many."""
    if isinstance(config, Seq2SeqConfig):
        sides = {side: with_wide_heads(getattr(config, side)) for side in ("encoder", "decoder")}
        return dataclasses.replace(config, **sides)
    return config if config.head_dim % 8 == 0 else dataclasses.replace(config, head_dim=16)


def drawn(config, path, leaf) -> np.ndarray:
    """A parameter as large as in trained models: fresh ones are so small that a prompt would hardly matter."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    numbers = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(leaf.shape).astype(np.float32)
    if "norm" in name or name.endswith("/bias"):
        is_factor = not name.endswith("/bias") and not getattr(config, "norm_offset", False)
        numbers = is_factor + 0.1 * numbers
    else:
        numbers *= leaf.shape[-1] ** -0.5
    if name.endswith("q/weight"):
        # As large as the model's own factor expects them: T5 and GPT-Neo have none, and softmax of one token else.
        block = config.decoder if isinstance(config, Seq2SeqConfig) else config
        numbers *= block.head_dim**-0.5 / block.attention_scale
    return numbers.astype(leaf.dtype)


def objective_of(case: Case, backbone: Backbone):
    if backbone.has_head and not case.classifier:
        return Generation("target")
    pool = "last" if backbone.causal else "mean"
    options = ClassifierOptions(labels=["a", "b"], pool=pool)
    return Classifier.build(options, DataAccess("label", "target", lambda: None, len))


def rows_of(rng, vocab: int, soft: bool, first: int) -> Inputs:
    """Packed rows; with the soft prompt at the start of each segment, or with positions from `first` up."""
    ids, positions, segments = (np.zeros((len(SEGMENTS), SEQ), np.int32) for _ in range(3))
    for row, lengths in enumerate(SEGMENTS):
        start = 0
        for number, length in enumerate(lengths, 1):
            here = slice(start, start + length)
            ids[row, here] = rng.integers(5, vocab, length)
            if soft:
                ids[row, start : start + SOFT] = vocab + np.arange(SOFT)
            positions[row, here], segments[row, here] = first + np.arange(length), number
            start += length
    return Inputs(ids, positions, segments)


def batch_of(backbone: Backbone, shared: bool) -> Batch:
    rng, vocab = np.random.default_rng(0), backbone.vocab_size
    inputs = rows_of(rng, vocab, not shared, SOFT if shared else 0)
    # Behind the soft prompt of a segment, and its last token.
    ends = np.cumsum(SEGMENTS, axis=1)
    at = np.concatenate([ends - 1, ends - 5, ends - 9], axis=1)[:, :TARGETS].astype(np.int32)
    group = np.tile(np.arange(3, dtype=np.int32), (2, 3))[:, :TARGETS]
    weight = np.ones(at.shape, np.float32)
    weight[:, -1] = 0
    return Batch(
        inputs,
        target_at=at,
        target_ids=rng.integers(5, vocab, at.shape).astype(np.int32),
        target_group=group,
        target_weight=weight,
        pool_at=(ends - 1).astype(np.int32),
        answers={"label": np.array([[0, 1, 1], [1, 0, -1]], np.int32)},
        index=np.arange(6, dtype=np.int32).reshape(2, 3),
        source=rows_of(rng, vocab, True, 0) if backbone.seq2seq else None,
    )


def learned_of(backbone: Backbone, classifier: bool) -> dict[str, np.ndarray]:
    """A soft prompt, and keys and values of every layer, all at once."""
    shapes = {"soft": (SOFT, backbone.soft_size)}
    for side, shape in (("", backbone.prefix_shape), ("source_", backbone.source_prefix_shape)):
        if shape is not None:
            layers, heads, width = shape
            shapes |= {f"{side}{name}": (layers, PREFIX, heads, width) for name in ("keys", "values")}
    if classifier:
        shapes |= {"weight": (2, backbone.hidden_size), "bias": (2,)}
    rng = np.random.default_rng(1)
    return {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@functools.cache
def gradients(case: Case) -> dict[str, np.ndarray]:
    """The loss, and its gradient with respect to all that is learned, in one program."""
    backbone = backbone_of(case)
    objective = objective_of(case, backbone)
    classifies = isinstance(objective, Classifier)
    shared = case.shared and backbone.causal
    hoisted = backbone.vocab_size + np.arange(SOFT if shared else 0)
    forward = Forward(backbone, objective, tuple(hoisted.tolist()))
    length = PREFIX if backbone.causal or backbone.seq2seq else 0

    def loss(learned, frozen, batch):
        prefix = Prefix(learned["keys"], learned["values"], length)
        source = Prefix(learned["source_keys"], learned["source_values"], 0) if backbone.seq2seq else None
        head = {name: learned[name] for name in ("weight", "bias")} if classifies else {}
        scores = forward(Conditioning(learned["soft"], prefix, source), head, frozen, batch)
        return scores.loss / scores.count

    arguments = learned_of(backbone, classifies), forward.frozen(), batch_of(backbone, shared)
    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(loss))(*arguments))
    return {"loss": value, **gradient}


def greedy(folder: str, new_tokens: int = 12) -> np.ndarray:
    """What a golden model writes behind contexts of different lengths, under a soft prompt and a prefix."""
    backbone = load_backbone(GOLDEN / folder)
    learned, rng = learned_of(backbone, False), np.random.default_rng(2)
    ids = rng.integers(5, backbone.vocab_size, (3, 8 + SOFT)).astype(np.int32)
    ids[:, :SOFT] = backbone.vocab_size + np.arange(SOFT)
    lengths, places = np.array([12, 9, 6], np.int32), np.broadcast_to(np.arange(8 + SOFT, dtype=np.int32), ids.shape)
    source, source_prefix = None, None
    if backbone.seq2seq:
        source = Inputs(ids, places, (places < lengths[:, None]).astype(np.int32))
        ids, lengths = np.full((3, 1), backbone.config.start_id, np.int32), np.ones(3, np.int32)
        source_prefix = Prefix(learned["source_keys"], learned["source_values"], 0)
    tokens, _ = decode(
        backbone,
        Search(new_tokens, eos=()),
        ids,
        lengths,
        soft=learned["soft"],
        prefix=Prefix(learned["keys"], learned["values"], PREFIX),
        source=source,
        source_prefix=source_prefix,
    )
    return np.asarray(tokens)
