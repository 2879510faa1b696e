"""Text before the first soft token, computed by itself: the same losses and gradients, and no way back through it."""

import dataclasses
import errno
import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.reports.terminal import Reporter
from jaxprompt.types import Inputs
from tests.conftest import STORIES
from tests.flops import products

GOLDEN = Path(__file__).parents[1] / "golden"


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


ROWS = [
    {
        "text": f"{'the dog ran and ran ' * (1 + number % 3)}{number}",
        "other": "a cat",
        "label": "gb"[number % 2],
        "n": number,
    }
    for number in range(8)
]
LABELS = {"g": "good", "b": ["so bad", "b"]}


def config(template, ahead, objective=None, **sections):
    return load_config(
        {
            "model": STORIES,
            "template": template,
            "method": {"init": {"top_k": 100}},
            "objective": objective or {"type": "verbalizer", "labels": LABELS},
            "data": {"train": ROWS, "validation": ROWS[:3], "ahead": ahead, "label": "label", "target": "other"},
            "train": {"steps": 3, "batch_size": 4, "eval_every": 3},
            **sections,
        }
    )


def loss_and_gradient(stories, given):
    experiment = build(given, stories)
    data = TrainingData.load(experiment)
    forward = experiment.forward(data.hoisted)
    frozen = forward.frozen()
    trainable = experiment.init_trainable()

    def loss_of(trainable):
        total = 0.0
        for batch in data.validation.batches():
            total = total + forward(experiment.method.apply(trainable), trainable.get("head", {}), frozen, batch).loss
        return total

    return data, jax.jit(jax.value_and_grad(loss_of))(trainable)


@pytest.mark.parametrize(
    ("template", "objective"),
    [
        slow("{text}{soft:3} It was {target}", None),
        ("Read this: {text}{soft:2} Well,{soft:1} it was {target}", None),
        ("{text} or {other}{soft:3} {target}", {"type": "generation"}),
        ("{text} {soft:3}.", {"type": "classifier"}),
        slow("{bos}{text}{soft:3}{n} ", {"type": "regression"}),
    ],
)
def test_losses_and_gradients_are_those_of_the_whole(stories, template, objective):
    label = {"label": "n"} if objective == {"type": "regression"} else {}
    found = {}
    for ahead in (False, True):
        given = config(template, ahead, objective)
        given = given.model_copy(update={"data": given.data.model_copy(update=label)})
        data, found[ahead] = loss_and_gradient(stories, given)
        batch = next(data.validation.batches())
        assert (batch.source is not None) == ahead
        if ahead:
            assert (batch.source.segments > 0).sum() > 20
    (loss, gradient), (want_loss, want_gradient) = found[True], found[False]
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), gradient, want_gradient)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-3


@pytest.mark.parametrize(
    ("template", "sections"),
    [
        # What is learned comes first, and reaches all text.
        ("{soft:2}{text}{soft:2} It was {target}", {}),
        ("{text} It was {target}", {"method": {"name": "prefix"}}),
        ("{text}{soft:2} {target}", {"method": {"name": "together", "parts": [{"name": "soft"}, {"name": "lora"}]}}),
        # The mean is over all of it.
        ("{text}{soft:2}{other}", {"objective": {"type": "classifier", "pool": "mean"}}),
    ],
)
def test_what_depends_on_the_prompt_stays_with_it(stories, template, sections):
    data = TrainingData.load(build(config(template, True, **sections), stories))
    assert next(data.validation.batches()).source is None


def test_it_is_taken_apart_where_it_is_most_of_the_tokens(stories):
    long = "{text} {text} {text}{soft:2} {target}"
    assert next(TrainingData.load(build(config(long, None), stories)).train_batches(0)).source is not None
    short = "{other}{soft:9} {text} {target}"
    assert next(TrainingData.load(build(config(short, None), stories)).train_batches(0)).source is None


@pytest.mark.slow
def test_a_run_learns_the_same_prompt(stories, tmp_path, quiet):
    prompts = []
    for ahead in (False, True):
        given = config("{text}{soft:3} It was {target}", ahead, run_dir=str(tmp_path / str(ahead)))
        prompts.append(jaxprompt.train(given, backbone=stories, reporter=quiet).prompt)
    np.testing.assert_allclose(prompts[0].soft, prompts[1].soft, atol=1e-4)


# Windows, of two rotaries, of positions that are learned, with norms behind.
@pytest.mark.parametrize(
    "name", ["gemma3", "gpt2", "gpt-neo", *map(slow, ("gemma2", "mistral", "qwen2-windows", "phi3"))]
)
def test_every_kind_of_decoder_sees_what_is_ahead(name):
    backbone = jaxprompt.load_backbone(GOLDEN / name)
    rng = np.random.default_rng(0)
    whole = rng.integers(0, backbone.vocab_size, (2, 12)).astype(np.int32)
    # Two texts in the first row, one in the second; each is cut, at 4, at 3 and at 5.
    segments = np.array([[1] * 7 + [2] * 5, [1] * 12], np.int32)
    positions = np.array([[*range(7), *range(5)], [*range(12)]], np.int32)
    cut = np.array([[1] * 4 + [0] * 3 + [1] * 3 + [0] * 2, [1] * 5 + [0] * 7], bool)

    def rows(which):
        length = which.sum(1).max()
        found = [np.zeros((2, length), np.int32) for _ in range(3)]
        for array, source in zip(found, (whole, positions, segments), strict=True):
            for row in range(2):
                part = source[row][which[row]]
                array[row, : len(part)] = part
        return Inputs(*found)

    want = backbone.apply(backbone.params, Inputs(whole, positions, segments))
    ahead = backbone.look_ahead(backbone.params, rows(cut))
    found = backbone.apply(backbone.params, rows(~cut), ahead=ahead)
    for row in range(2):
        own = np.asarray(want)[row][~cut[row]]
        np.testing.assert_allclose(found[row, : len(own)], own, atol=2e-5, rtol=1e-4)


def test_no_way_back_is_computed_through_it(stories):
    """A step forward through the text and through the prompt, and back through the prompt alone."""
    flops = {}
    rows = [{**row, "text": " ".join([row["text"]] * 5)} for row in ROWS]
    for ahead in (False, True):
        given = config("{text}{soft:3} It was {target}", ahead)
        given = given.model_copy(update={"data": given.data.model_copy(update={"train": rows, "packing": False})})
        experiment = build(given, stories)
        data = TrainingData.load(experiment)
        forward = experiment.forward(data.hoisted)
        frozen = forward.frozen()

        def loss_of(trainable, frozen, batch, forward=forward, experiment=experiment):
            return forward(experiment.method.apply(trainable), {}, frozen, batch).loss

        batch = next(data.train_batches(0))
        found = products(jax.grad(loss_of), experiment.init_trainable(), frozen, batch)
        flops[ahead] = sum(product.flops for product in found)
    assert flops[True] < 0.5 * flops[False]


@pytest.mark.parametrize("cache", ["disk", pytest.param("memory", marks=pytest.mark.slow)])
def test_what_is_ahead_is_computed_once_and_read_in_every_step(stories, tmp_path, capsys, cache, monkeypatch):
    runs = {}
    for how in (None, cache):
        given = config("{text}{soft:3} It was {target}", True, run_dir=str(tmp_path / str(how)))
        given = given.model_copy(update={"data": given.data.model_copy(update={"cache": how})})
        reporter = Reporter(quiet=how is None)
        runs[how] = jaxprompt.train(given, backbone=stories, reporter=reporter)
    np.testing.assert_allclose(runs[cache].prompt.soft, runs[None].prompt.soft, atol=1e-5)
    assert runs[cache].metrics["loss"] == pytest.approx(runs[None].metrics["loss"], rel=1e-5)
    assert f"GB ({cache}), read in every step" in capsys.readouterr().err
    assert not (tmp_path / cache / "ahead").exists()
    # The other way of computing it is no other run.
    again = jaxprompt.train(
        given.model_copy(update={"data": given.data.model_copy(update={"cache": None})}), backbone=stories
    )
    assert again.metrics == runs[cache].metrics


def test_a_cached_step_does_not_look_at_the_text(stories, tmp_path):
    given = config("{text}{soft:3} It was {target}", True)
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "memory"})})
    experiment = build(given, stories)
    data = TrainingData.load(experiment).cached(experiment, tmp_path)
    forward = experiment.forward(data.hoisted)
    frozen = forward.frozen()
    look_ahead = jax.jit(forward.look_ahead)
    data.fill_caches(lambda batch: look_ahead(frozen, batch))
    batch = next(data.train_batches(0))
    plain = batch.replace(ahead=None)
    trainable = experiment.init_trainable()

    def loss_of(trainable, batch):
        return forward(experiment.method.apply(trainable), {}, frozen, batch).loss

    loss = jax.jit(loss_of)
    assert float(loss(trainable, batch)) == pytest.approx(float(loss(trainable, plain)), rel=1e-6)
    flops = [sum(p.flops for p in products(jax.grad(loss_of), trainable, one)) for one in (batch, plain)]
    assert flops[0] < 0.7 * flops[1]


@pytest.mark.parametrize(
    ("method", "template", "objective"),
    [
        ("soft", "{text}{decoder}{soft:3} It was {target}", None),
        ("soft", "Say: {text} {decoder}{soft:2} and{soft:1} {target}", {"type": "generation"}),
        pytest.param("late", "{text}{decoder}{soft:3} It was {target}", None, marks=pytest.mark.slow),
    ],
)
def test_what_an_encoder_reads_beside_a_prompt_of_the_decoder_is_computed_once(
    seq2seq, tmp_path, method, template, objective
):
    method = {"name": method, "init": {"top_k": 100}}
    given = config(template, None, objective, method=method)
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "memory"})})
    experiment = build(given, seq2seq)
    data = TrainingData.load(experiment).cached(experiment, tmp_path)
    forward = experiment.forward(data.hoisted)
    assert forward.bare_source
    frozen = forward.frozen()
    look_ahead = jax.jit(forward.look_ahead)
    data.fill_caches(lambda batch: look_ahead(frozen, batch))
    batch = next(data.train_batches(0))
    trainable = experiment.init_trainable()
    # As if the encoder could read soft tokens: a way back that gives nothing.
    whole = dataclasses.replace(forward, bare_source=False)

    def loss_of(trainable, batch, forward=forward):
        return forward(experiment.method.apply(trainable), {}, frozen, batch).loss

    ways = [(forward, batch), (forward, batch.replace(ahead=None)), (whole, batch.replace(ahead=None))]
    found = [jax.jit(jax.value_and_grad(partial(loss_of, forward=of)))(trainable, one) for of, one in ways]
    for loss, gradient in found[:2]:
        assert float(loss) == pytest.approx(float(found[2][0]), rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), gradient, found[2][1])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[0][1])) > 1e-3
    flops = [
        sum(product.flops for product in products(jax.grad(partial(loss_of, forward=of)), trainable, one))
        for of, one in ways
    ]
    assert flops[0] < 0.8 * flops[1] and flops[1] < 0.8 * flops[2]


@pytest.mark.slow
def test_a_run_of_an_encoder_decoder_learns_the_same_from_what_was_computed_once(seq2seq, tmp_path, quiet):
    runs = []
    for cache in (None, "disk"):
        given = config("{text}{decoder}{soft:3} It was {target}", None, run_dir=str(tmp_path / str(cache)))
        given = given.model_copy(update={"data": given.data.model_copy(update={"cache": cache})})
        runs.append(jaxprompt.train(given, backbone=seq2seq, reporter=quiet))
    np.testing.assert_allclose(runs[1].prompt.soft, runs[0].prompt.soft, atol=1e-5)
    assert runs[1].metrics["loss"] == pytest.approx(runs[0].metrics["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("template", "sections"),
    [
        ("{soft:1}{text}{decoder}{soft:3} It was {target}", {}),
        ("{text}{decoder}It was {target}", {"method": {"name": "prefix", "length": 2}}),
        (
            "{text}{decoder}{soft:3} {target}",
            {"method": {"name": "together", "parts": [{"name": "soft"}, {"name": "lora"}]}},
        ),
    ],
)
def test_what_an_encoder_reads_with_what_is_learned_is_not_kept(seq2seq, template, sections):
    given = config(template, None, **sections)
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "memory"})})
    with pytest.raises(InputError, match=r"or all that an encoder reads beside a decoder's soft tokens"):
        jaxprompt.train(given, backbone=seq2seq)


@pytest.mark.parametrize(
    ("template", "ahead", "message"),
    [
        ("{soft:3}{text} It was {target}", None, "data.cache keeps text before an example's first soft token"),
        ("{text}{soft:3} It was {target}", False, "data.cache keeps text before an example's first soft token"),
    ],
)
def test_a_cache_of_nothing_is_refused(stories, tmp_path, template, ahead, message):
    given = config(template, ahead, run_dir=str(tmp_path / "run"))
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "memory"})})
    with pytest.raises(InputError) as error:
        jaxprompt.train(given, backbone=stories)
    assert str(error.value).startswith(message) and not (tmp_path / "run").exists()


def test_a_cache_that_the_disk_does_not_hold_is_one_line_and_leaves_nothing(stories, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    given = config("{text}{soft:3} It was {target}", True, run_dir=str(tmp_path / "run"))
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "disk"})})
    with pytest.raises(InputError, match=r"ahead' cannot be written \(No space left on device\): free space"):
        jaxprompt.train(given, backbone=stories)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_larger_than_the_memory_names_the_disk(stories, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprompt.experiment.data.free_memory", lambda: 1000.0)
    given = config("{text}{soft:3} It was {target}", True, run_dir=str(tmp_path / "run"))
    given = given.model_copy(update={"data": given.data.model_copy(update={"cache": "memory"})})
    with pytest.raises(
        InputError, match=r"^data\.cache=memory would take .* GB for \d+ tokens of train.*: set it to disk$"
    ):
        jaxprompt.train(given, backbone=stories)
