"""The fast step against its slow twins, finite differences and its promises about the compiled program."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.models.stack import unstack
from jaxprompt.training.step import init_state, make_train_step
from tests.conftest import STORIES
from tests.devices import run_on_eight_devices

SOFT = {"template": "Read this. {soft:3} Review: {text} It was{soft:2} {target}"}
PREFIX = {
    "template": "Review: {text} It was {target}",
    "method": {"name": "prefix", "length": 4, "init": {"scale": 0.5, "type": "normal"}},
}
GENERATION = {"objective": {"type": "generation"}}
ONE_TOKEN = {"objective": {"type": "verbalizer", "labels": {"0": "b", "1": ["g", "h"]}}}
SEVERAL_TOKENS = {
    "objective": {"type": "verbalizer", "labels": {"0": ["so bad", "sad"], "1": ["good", "very very happy"]}}
}
HEAD = {"objective": {"type": "classifier"}}
SIMILARITY = {"objective": {"type": "similarity", "labels": {"0": "bad review", "1": "good review"}}}

DECODER_CASES = {
    "soft-generation": SOFT | GENERATION,
    "soft-one-token": SOFT | {"template": "{soft:3} Review: {text} It was{target}"} | ONE_TOKEN,
    "soft-several-tokens": SOFT | SEVERAL_TOKENS,
    "after-bos": SOFT | {"template": "{bos}{soft:4}{text}: {target}"} | GENERATION,
    "prefix-generation": PREFIX | GENERATION,
    "prefix-several-tokens": PREFIX | SEVERAL_TOKENS,
    "head": {"template": "{soft:3} {text}"} | HEAD,
    "mean-head": {"template": "{soft:3} A review of: {text}", "objective": {"type": "classifier", "pool": "mean"}},
}
ENCODER_CASES = {
    "soft-head": {"template": "{soft:3} {text} {soft:1}"} | HEAD,
    "soft-similarity": {"template": "{soft:3} {text}"} | SIMILARITY,
    "prefix-head": PREFIX | {"template": "{text}"} | HEAD,
    "first-token": {"template": "{soft:3} {text}", "objective": {"type": "classifier", "pool": "first"}},
    "last-token": {"template": "{soft:3} {text}", "objective": {"type": "classifier", "pool": "last"}},
}

SEQ2SEQ_CASES = {
    "encoder": {"template": "Review: {soft:3} {text} {target}"} | GENERATION,
    "decoder": {"template": "{text}{decoder}{soft:3}{target}"} | GENERATION,
    "both-several-tokens": {"template": "{soft:3} {text} {decoder}{soft:2} It was {target}"} | SEVERAL_TOKENS,
    "prefix-one-token": PREFIX | ONE_TOKEN,
}


def cases(all_cases, slow=()):
    """Parameters of a test, one per case; those of `slow` differ from the others in less."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, case in all_cases.items()
    ]


class Scorer:
    """An experiment's forward pass and method, from what is learned to scores."""

    def __init__(self, experiment, hoisted):
        self.method, self.forward, self.hoisted = experiment.method, experiment.forward(hoisted), hoisted
        self.frozen = self.forward.frozen

    def __call__(self, trainable, frozen, batch):
        return self.forward(self.method.apply(trainable), trainable.get("head", {}), frozen, batch)

    def step(self, optimizer):
        return make_train_step(self.forward, self.method, optimizer)


def prepared(backbone, rows, case, **data):
    """A scorer, trainable (head set away from 0, so that gradients reach the prompt) and the first batch."""
    case = {"method": {"init": {"type": "vocab", "top_k": 100}}} | case
    tree = {"model": "m", "data": {"train": rows, "shuffle": False, **data}, "train": {"batch_size": len(rows)}, **case}
    experiment = build(load_config(tree), backbone)
    loaded = TrainingData.load(experiment)
    trainable = experiment.init_trainable()
    keys = iter(jax.random.split(jax.random.key(5), 8))
    if "head" in trainable:
        trainable["head"] = {k: 0.3 * jax.random.normal(next(keys), v.shape) for k, v in trainable["head"].items()}
    return Scorer(experiment, loaded.hoisted), trainable, next(loaded.train_batches(0))


def loss_and_gradient(backbone, rows, case, **data):
    forward, trainable, batch = prepared(backbone, rows, case, **data)

    def loss(trainable, frozen):
        scores = forward(trainable, frozen, batch)
        return scores.loss / scores.count

    value, gradient = jax.jit(jax.value_and_grad(loss))(trainable, forward.frozen())
    return forward, batch, float(value), gradient


def assert_same(ours, theirs):
    assert abs(ours[2] - theirs[2]) < 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), ours[3], theirs[3])
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(ours[3]["prompt"])) > 1e-4


@pytest.mark.parametrize(
    "case",
    cases(DECODER_CASES, slow=["after-bos", "prefix-generation", "soft-one-token", "soft-several-tokens", "mean-head"]),
)
def test_decoder_shared_and_packed_equal_concatenated_and_separate(stories, rows, case):
    fast = loss_and_gradient(stories, rows, case)
    packed = loss_and_gradient(stories, rows, case, share_prefix=False)
    plain = loss_and_gradient(stories, rows, case, share_prefix=False, packing=False)
    assert len(fast[0].hoisted) > 0
    assert len(plain[0].hoisted) == 0
    assert fast[1].index.shape[0] < plain[1].index.shape[0] == len(rows)
    assert_same(fast, packed)
    assert_same(packed, plain)


@pytest.mark.parametrize("name", ["stories", pytest.param("minilm", marks=pytest.mark.slow)])
def test_pooling_takes_the_tokens_it_names(name, rows, request):
    backbone = request.getfixturevalue(name)

    def pooled(pool):
        case = {"template": "{soft:3} {text}", "objective": {"type": "classifier", "pool": pool}}
        forward, trainable, batch = prepared(backbone, rows, case, packing=False, share_prefix=False)
        text = (np.asarray(batch.inputs.segments) == 1) & (np.asarray(batch.inputs.ids) < backbone.vocab_size)
        return float(jax.jit(forward)(trainable, forward.frozen(), batch).loss), np.asarray(batch.pool_at)[:, 0], text

    (first, at_first, text), (last, at_last, _), (mean, _, _) = map(pooled, ("first", "last", "mean"))
    np.testing.assert_array_equal(at_first, text.argmax(1))
    np.testing.assert_array_equal(at_last, text.shape[1] - 1 - text[:, ::-1].argmax(1))
    assert len({round(loss, 3) for loss in (first, last, mean)}) == 3


@pytest.mark.parametrize("case", cases(ENCODER_CASES, slow=["first-token", "last-token", "soft-similarity"]))
def test_encoder_packed_equals_separate(minilm, rows, case):
    packed = loss_and_gradient(minilm, rows, case)
    plain = loss_and_gradient(minilm, rows, case, packing=False)
    assert packed[1].index.shape[0] < plain[1].index.shape[0]
    assert_same(packed, plain)


@pytest.mark.parametrize("case", cases(SEQ2SEQ_CASES, slow=["encoder", "decoder"]))
def test_encoder_decoder_packed_equals_separate(seq2seq, rows, case):
    packed = loss_and_gradient(seq2seq, rows, case)
    plain = loss_and_gradient(seq2seq, rows, case, packing=False)
    assert packed[0].hoisted == ()
    assert packed[1].source.ids.shape[0] < plain[1].source.ids.shape[0] == len(rows)
    assert_same(packed, plain)
    if "prefix" in case.get("method", {}).get("name", ""):
        assert all(float(jnp.abs(g).max()) > 1e-5 for g in packed[3]["prompt"].values())


def unrolled(looped):
    """The same backbone, every layer with weights of its own."""
    return dataclasses.replace(looped, params=unstack(jax.tree.map(jnp.copy, looped.params)))


def assert_unrolled_equals_the_loop(looped, rows, case):
    assert_same(loss_and_gradient(unrolled(looped), rows, case), loss_and_gradient(looped, rows, case))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("stories", DECODER_CASES["soft-several-tokens"]),
        pytest.param("stories", DECODER_CASES["prefix-generation"], marks=pytest.mark.slow),
        pytest.param("windowed", DECODER_CASES["soft-generation"], marks=pytest.mark.slow),
        ("minilm", ENCODER_CASES["soft-head"]),
        pytest.param("minilm", ENCODER_CASES["prefix-head"], marks=pytest.mark.slow),
    ],
)
def test_unrolled_layers_equal_the_loop(name, case, rows, request):
    assert_unrolled_equals_the_loop(request.getfixturevalue(name), rows, case)


@pytest.mark.parametrize("case", cases(SEQ2SEQ_CASES, slow=["encoder", "decoder", "both-several-tokens"]))
def test_unrolled_encoder_decoders_equal_the_loop(seq2seq, rows, case):
    assert_unrolled_equals_the_loop(seq2seq, rows, case)


WINDOW_CASES = {name: DECODER_CASES[name] for name in ("soft-generation", "soft-several-tokens", "prefix-generation")}


@pytest.mark.parametrize("case", cases(WINDOW_CASES, slow=["prefix-generation", "soft-several-tokens"]))
def test_windows_packed_and_shared_equal_concatenated_and_separate(windowed, stories, rows, case):
    fast = loss_and_gradient(windowed, rows, case)
    plain = loss_and_gradient(windowed, rows, case, share_prefix=False, packing=False)
    assert_same(fast, plain)
    assert abs(fast[2] - loss_and_gradient(stories, rows, case)[2]) > 1e-3


def test_masked_label_words_of_several_lengths_packed_equal_separate(masked, rows):
    labels = {"0": ["bad", "so boring"], "1": ["good", "unbelievably great"]}
    case = {"template": "{soft:3} {text} It was {mask}.", "objective": {"type": "verbalizer", "labels": labels}}
    packed = loss_and_gradient(masked, rows, case)
    plain = loss_and_gradient(masked, rows, case, packing=False)
    assert packed[1].index.shape[0] < plain[1].index.shape[0]
    assert packed[1].inputs.segments.max() > packed[1].index.shape[1]
    assert_same(packed, plain)


def test_prompt_and_optimizer_stay_fp32_under_a_bf16_backbone(rows):
    backbone = jaxprompt.load_backbone(STORIES, dtype="bfloat16")
    forward, trainable, batch = prepared(backbone, rows, DECODER_CASES["soft-generation"])
    optimizer = optax.adam(1e-4)
    step = forward.step(optimizer)
    before = np.array(trainable["prompt"]["soft"])
    state, metrics = step(init_state(trainable, optimizer), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.trainable, state.opt_state[0].mu))} == {jnp.dtype("float32")}
    # A change far below bf16's resolution of such values is kept.
    change = np.abs(np.array(state.trainable["prompt"]["soft"]) - before).max()
    assert 0 < change < 2e-4
    assert np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize("name", ["soft-generation", pytest.param("prefix-several-tokens", marks=pytest.mark.slow)])
def test_gradient_equals_finite_differences(stories, rows, name):
    forward, trainable, batch = prepared(stories, rows, DECODER_CASES[name])
    with jax.enable_x64():
        frozen = jax.tree.map(lambda x: x.astype(jnp.float64), forward.frozen())
        trainable = jax.tree.map(lambda x: x.astype(jnp.float64), trainable)

        def loss(trainable, frozen):
            scores = forward(trainable, frozen, batch)
            return scores.loss / scores.count

        gradient = jax.jit(jax.grad(loss))(trainable, frozen)
        leaves, tree = jax.tree.flatten(gradient)
        value, rng = jax.jit(loss), np.random.default_rng(0)
        for _ in range(3):
            # Mostly uphill, so that the slope stands well above what float32 inside the model can resolve.
            noise = [rng.normal(size=leaf.shape) for leaf in leaves]
            size = np.sqrt(sum((n**2).sum() for n in noise)) / optax.tree.norm(gradient)
            along = [leaf + n / size for leaf, n in zip(leaves, noise, strict=True)]
            step = 0.01 / np.sqrt(sum((a**2).sum() for a in along))
            move = jax.tree.unflatten(tree, [step * a for a in along])
            ahead = value(jax.tree.map(jnp.add, trainable, move), frozen)
            behind = value(jax.tree.map(jnp.subtract, trainable, move), frozen)
            slope = sum((g * a).sum() for g, a in zip(leaves, along, strict=True))
            np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=2e-3)


def test_constant_text_before_the_prompt_is_computed_once_per_run(stories, rows):
    forward, _, _ = prepared(stories, rows, DECODER_CASES["soft-generation"])
    prefix = forward.frozen()["hard_prefix"]
    before_soft = next(i for i, token in enumerate(forward.hoisted) if token >= stories.vocab_size)
    assert prefix.length == prefix.keys.shape[1] == before_soft > 1


def test_training_leaves_the_frozen_parameters_bit_identical_and_lowers_the_loss(stories, rows):
    forward, trainable, batch = prepared(stories, rows, DECODER_CASES["soft-generation"])
    before = jax.tree.map(lambda x: np.array(x).tobytes(), stories.params)
    optimizer = optax.adam(0.05)
    step = forward.step(optimizer)
    state = init_state(trainable, optimizer)
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.3
    assert jax.tree.map(lambda x: np.array(x).tobytes(), stories.params) == before
    assert int(state.step) == 8


def test_accumulated_parts_equal_the_whole_batch(stories, rows):
    case = DECODER_CASES["soft-generation"]
    forward, trainable, whole = prepared(stories, rows, case)
    optimizer = optax.sgd(1.0)
    step = forward.step(optimizer)
    # Parts with different numbers of targets: a mean of the parts' means would differ.
    parts = [prepared(stories, part, case)[2] for part in (rows[:3], rows[3:])]
    assert len({float(part.target_weight.sum()) for part in parts}) == 2
    once, figures = step(init_state(trainable, optimizer), whole)
    added, summed = step(init_state(trainable, optimizer), parts)
    np.testing.assert_allclose(summed["loss"], figures["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), once.trainable, added.trainable)


def test_the_program_is_small_and_holds_no_weights(minilm, rows):
    forward, trainable, batch = prepared(minilm, rows, ENCODER_CASES["soft-head"])
    optimizer = optax.adam(1e-3)
    step = forward.step(optimizer)
    text = step.jitted.lower(step.frozen, init_state(trainable, optimizer), batch).as_text()
    assert len(text) < 2**20


SHARDED = """
import json, sys
import jax, optax
import jaxprompt
from jaxprompt.machine.sharding import make_mesh, replicated, row_sharding
from jaxprompt.training.step import init_state
from tests.conftest import REVIEWS, STORIES
from tests.training.test_step import DECODER_CASES, prepared

rows = [{"text": t, "label": y, "target": "good" if y else "so bad"} for t, y in REVIEWS]
for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(data=2, fsdp=2, tensor=2)):
    backbone = jaxprompt.load_backbone(STORIES, mesh=mesh)
    forward, trainable, batch = prepared(backbone, rows, DECODER_CASES[sys.argv[1]])
    optimizer = optax.sgd(1.0)
    step = forward.step(optimizer)
    state = jax.device_put(init_state(trainable, optimizer), replicated(mesh))
    batch = jax.device_put(batch, row_sharding(mesh))
    for _ in range(2):
        state, metrics = step(state, batch)
    weight = backbone.params["layers"]["mlp"]["up"]["weight"]
    share = weight.addressable_shards[0].data.size / weight.size
    print(json.dumps([float(metrics["loss"]), float(optax.tree.norm(state.trainable["prompt"])), share]))
"""


# The contract of the methods takes one such step of each.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft-generation", "prefix-several-tokens"])
def test_eight_devices_take_the_same_steps_as_one(name):
    one, split = np.array([json.loads(line) for line in run_on_eight_devices(SHARDED, name).splitlines()])
    np.testing.assert_allclose(split[:2], one[:2], rtol=2e-4)
    # The weights are split over fsdp and tensor.
    assert (one[2], split[2]) == (1, 0.25)
