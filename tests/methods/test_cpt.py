"""CPT: labelled examples as a prompt, whose embeddings change within bounds."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.inference.predict import predict_run
from jaxprompt.methods import fold
from jaxprompt.training.step import init_state, make_train_step
from tests.methods.test_contract import config

WORDS = {"type": "verbalizer", "labels": {0: ["so bad"], 1: ["good"]}}
TEMPLATE = "{soft:54}Review: {text} It was {target}"


def given(rows, template=TEMPLATE, method=None, **sections):
    method = {"name": "cpt", "examples": 2} | (method or {})
    return load_config(config("cpt", rows, **sections) | {"template": template, "method": method})


@pytest.mark.parametrize("objective", [{"type": "generation"}, WORDS], ids=["generation", "words"])
def test_the_prompt_is_examples_with_their_labels(stories, rows, objective):
    experiment = build(given(rows, objective=objective), stories)
    context, decode = experiment.method.context, stories.tokenizer.decode
    ids, labels = np.asarray(context.ids), np.asarray(context.labels)
    text = decode(ids, skip_special_tokens=True)
    drawn = [line for line in text.split("\n") if line]
    shown = {f"Review: {row['text']} It was {row['target']}": row for row in rows}
    assert len(drawn) == 2 and {line.strip() for line in drawn} <= shown.keys()
    for number, line in enumerate(drawn, 1):
        assert decode(ids[labels == number]).strip() == shown[line.strip()]["target"]
    read = decode(ids[np.asarray(context.read)])
    assert read == " ".join(shown[line.strip()]["text"] for line in drawn)
    # The start is their embeddings.
    words = stories.word_embedding(stories.params)
    start = experiment.prompt(experiment.init_trainable())
    np.testing.assert_array_equal(start.soft, words[ids])


def test_the_labels_of_the_examples_are_learned_by_too(stories, rows):
    decay = {"decay": 0.5}
    experiment = build(given(rows, method=decay, objective=WORDS), stories)
    data, optimizer = TrainingData.load(experiment), optax.sgd(0.0)
    forward, trainable = experiment.forward(data.hoisted), experiment.init_trainable()
    step = make_train_step(forward, experiment.method, optimizer)
    batch = next(data.train_batches(0))
    alone = jax.jit(forward)(fold(experiment.method, trainable), {}, forward.frozen(), batch)
    _, metrics = step(init_state(trainable, optimizer), jax.device_put(batch))
    # By the model on plain ids.
    context = experiment.method.context
    logprobs = jax.nn.log_softmax(stories.logits([context.ids]))[0]
    labels = np.asarray(context.labels)
    nll = [-logprobs[at - 1, context.ids[at]] * 0.5 ** (3 - labels[at]) for at in np.flatnonzero(labels)]
    examples = int((np.asarray(batch.index) >= 0).sum())
    count = float(alone.count) + examples * len(nll)
    assert float(metrics["count"]) == count
    assert float(metrics["loss"]) == pytest.approx((float(alone.loss) + examples * float(sum(nll))) / count, rel=1e-5)


@pytest.mark.slow
def test_changes_stay_within_their_bounds_and_a_run_needs_no_rows_to_be_used(stories, rows, tmp_path, quiet):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = config("cpt", rows, objective=WORDS, run_dir=str(tmp_path / "run"))
    tree |= {"data": {"train": str(path), "validation": rows[:5]}, "optimizer": {"learning_rate": 0.05}}
    tree["method"] |= {"text_bound": 2.0, "template_bound": 1.0}
    start = build(load_config(tree), stories)
    prompt = jaxprompt.train(tree, backbone=stories, reporter=quiet).prompt
    change = np.linalg.norm(prompt.soft - start.prompt(start.init_trainable()).soft, axis=1)
    scale, context = (64 / 2048) ** 0.5, start.method.context
    label, read = np.asarray(context.labels) > 0, np.asarray(context.read)
    assert not change[label].any()
    for kind, bound in ((read, 2.0 * scale), (~read & ~label, scale)):
        assert change[kind].max() == pytest.approx(bound, rel=1e-4) and change[kind].min() > 0
    path.unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (answer,) = predict_run(tmp_path / "run", ["a dog"], stories)
    assert answer["prediction"] in ("0", "1")


def test_a_bound_of_nothing_is_no_change(stories, rows):
    experiment = build(given(rows, method={"text_bound": 0.0, "template_bound": 0.0}), stories)
    trainable = jax.tree.map(lambda x: x + 1.0, experiment.init_trainable())
    assert not experiment.method.project(trainable)["prompt"]["change"].any()
    assert bool(jnp.isfinite(experiment.method.project(experiment.init_trainable())["prompt"]["change"]).all())


@pytest.mark.parametrize(
    ("template", "method", "sections", "message"),
    [
        (
            "{soft:9}Review: {text} It was {target}",
            {},
            {},
            r"come to 54 tokens .* has 9 soft tokens: write \{soft:54\}",
        ),
        ("Read. {soft:54}{text} It was {target}", {}, {}, "soft tokens elsewhere than at its start"),
        ("{soft:50}{text}{soft:4} It was {target}", {}, {}, "soft tokens elsewhere than at its start"),
        (TEMPLATE, {"examples": 13}, {}, "method.examples is 13, and there are 12 training rows"),
        ("{soft:54}{text}", {}, {"objective": {"type": "classifier"}}, "answers with no text that examples could show"),
    ],
)
def test_what_makes_no_prompt_is_refused(stories, rows, template, method, sections, message):
    with pytest.raises(jaxprompt.InputError, match=message):
        build(given(rows, template, method, **sections), stories)


def test_encoders_and_other_methods_beside_it_are_refused(stories, masked, rows):
    with pytest.raises(jaxprompt.InputError, match="method cpt is for decoders"):
        build(given(rows, "{soft:54}{text} It was {mask}", objective=WORDS), masked)
    together = {"name": "together", "parts": [{"name": "cpt"}, {"name": "lora"}]}
    tree = config("cpt", rows) | {"method": together}
    with pytest.raises(jaxprompt.InputError, match=r"by itself: leave it out of method\.parts"):
        build(load_config(tree), stories)
