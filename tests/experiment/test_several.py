"""Several tasks in the same batches: each learns what it learns alone."""

import itertools
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config, task_configs
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.several import SeveralData, build_several
from jaxprompt.inference.predict import evaluate_run, predict_run
from jaxprompt.training.step import gradient
from jaxprompt.training.tasks import gradient as tasks_gradient
from tests.away import away_from
from tests.conftest import STORIES

SOFT = {"name": "soft", "init": {"top_k": 50}}
PREFIX = {"name": "prefix", "length": 3, "init": {"top_k": 50}}
WORDS = {"type": "verbalizer", "labels": {"0": ["bad", "so sad"], "1": "good"}}
WORD = {"type": "verbalizer", "labels": {"0": "sad", "1": "happy"}}
WRITE = {"type": "generation"}
CLASSES = {"type": "classifier", "labels": ["0", "1"]}
NUMBER = {"type": "regression"}
DECODER = {
    "write": {"template": "Read this. {soft:4}Review: {text} It was {target}", "method": SOFT, "objective": WRITE},
    "words": {"template": "{soft:7}Now: {text} It is {target}", "method": SOFT, "objective": WORDS},
    "class": {"template": "{text} {soft:3} so", "method": SOFT, "objective": CLASSES},
    "write_more": {"template": "Tell. {text}, so {target}", "method": PREFIX | {"length": 5}, "objective": WRITE},
}
DEPT = {"name": "dept", "rank": 2, "init": {"top_k": 50}}
IDPG = {"name": "idpg", "bottleneck": 3, "init": {"top_k": 50}}
ATTEMPT = {"name": "attempt", "bottleneck": 4, "sources": [{"top_k": 20}, {"type": "text", "text": "so bad"}]}
LORA = {"name": "lora", "rank": 3, "targets": ["q", "v", "up", "down", "out"]}
IA3 = {"name": "ia3"}
# What changes products, alone and beside a prompt, and what does not.
PRODUCTS = {
    "lora": {"template": "Read this. Now: {text} so {target}", "method": LORA, "objective": WRITE},
    "soft": DECODER["words"],
    "ia3": {"template": "{text}. So {target}", "method": IA3, "objective": WORDS},
    "both": {
        "template": "So {soft:3}{text} so {target}",
        "method": {"name": "together", "parts": [SOFT, LORA | {"rank": 2, "targets": ["k", "q"]}, {"name": "ia3"}]},
        "objective": WORD,
    },
    "prefix": DECODER["write_more"],
}
# What changes embeddings, and what depends on them, beside what does neither.
BY_TEXT = {
    "soft": DECODER["words"],
    "change": {
        "template": "Read this. {soft:4}Now: {text} so {target}",
        "method": DEPT | {"text_length": 6},
        "objective": WRITE,
    },
    "more": {"template": "{text} {soft:2} so {target}", "method": DEPT | {"text_length": 40}, "objective": WORD},
    "made": {"template": "So {soft:5}{text} so {target}", "method": IDPG, "objective": WRITE},
    "prefix": {"template": "{text}. So {target}", "method": PREFIX, "objective": WORDS},
    "mixed": {"template": "{soft:6}{text} It is {target}", "method": ATTEMPT, "objective": WORD},
    "made_behind": {"template": "{text} {soft:3} It is {target}", "method": IDPG, "objective": WORDS},
}
ENCODER = {
    "words": {"template": "{text} {soft:2} It was {mask}", "method": SOFT, "objective": WORDS},
    "class": {"template": "{soft:4} {text}", "method": SOFT, "objective": CLASSES},
    "word": {"template": "{text} {mask}", "method": PREFIX, "objective": WORD},
    "number": {"template": "{text}", "method": PREFIX | {"length": 5}, "objective": NUMBER},
}
BOTH_SIDES = {
    "write": {"template": "{soft:4} {text} {target}", "method": SOFT, "objective": WRITE},
    "word": {"template": "Now {text} {target}", "method": PREFIX, "objective": WORD},
    "write_more": {"template": "{soft:2} say {text} {target}", "method": SOFT, "objective": WRITE},
    "words": {"template": "{text} {target}", "method": PREFIX | {"length": 5}, "objective": WORDS},
}


def config(tasks, rows, **sections):
    return load_config({"model": STORIES, "tasks": tasks, "data": {"train": rows, "validation": rows}} | sections)


def agree(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5 * float(jnp.abs(other).max()))


def check_losses_and_gradients(backbone, tasks, rows):
    experiment = build_several(config(tasks, rows, train={"eval_batch_size": 100}), backbone, None, None)

    trainable = away_from(experiment.init_trainable())
    data = SeveralData.load(experiment)
    (batch,) = data.validation.batches()
    forward = experiment.forward(data.hoisted)

    losses, counts, found, _ = jax.jit(partial(tasks_gradient, forward, experiment.method))(
        forward.frozen(), trainable, batch
    )
    for number, (task, part) in enumerate(experiment.parts.items()):
        alone = TrainingData.load(part)
        (own,) = alone.validation.batches()
        forward = part.forward(alone.hoisted)
        of_task = experiment.method.of(task, trainable)
        loss, count, wanted = jax.jit(partial(gradient, forward, part.method))(forward.frozen(), of_task, own)
        agree(experiment.method.of(task, found), jax.tree.map(lambda x: x / count, wanted))  # noqa: B023 (at once)
        assert float(losses[number]) == pytest.approx(float(loss), rel=1e-5)
        assert float(counts[number]) == float(count)


@pytest.mark.parametrize(
    "kind", [pytest.param("stories", marks=pytest.mark.slow), pytest.param("windowed", marks=pytest.mark.long)]
)
def test_a_mixed_batch_of_a_decoder_has_the_losses_and_gradients_that_each_task_has_alone(request, rows, kind):
    check_losses_and_gradients(request.getfixturevalue(kind), DECODER, rows)


@pytest.mark.parametrize("tasks", [("change", "made", "soft"), pytest.param(BY_TEXT, marks=pytest.mark.slow)])
def test_so_has_one_whose_embeddings_change_and_whose_soft_rows_depend_on_the_text(stories, rows, tasks):
    check_losses_and_gradients(stories, {task: BY_TEXT[task] for task in tasks}, rows)


@pytest.mark.parametrize("tasks", [("lora", "soft"), pytest.param(PRODUCTS, marks=pytest.mark.slow)])
def test_so_has_one_whose_products_change(stories, rows, tasks):
    check_losses_and_gradients(stories, {task: PRODUCTS[task] for task in tasks}, rows)


def _changing(tasks):
    """The same with methods that change embeddings, or soft rows by them, in the place of plain soft tokens, and products in
    that of prefixes."""
    rows, products = itertools.cycle([DEPT, IDPG]), itertools.cycle([LORA, IA3])
    return {task: of | {"method": next(rows) if of["method"] is SOFT else next(products)} for task, of in tasks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("methods", [dict, _changing])
def test_so_has_one_of_an_encoder(masked, rows, methods):
    check_losses_and_gradients(masked, methods(ENCODER), rows)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [dict, _changing])
def test_so_has_one_of_an_encoder_decoder(seq2seq, rows, methods):
    check_losses_and_gradients(seq2seq, methods(BOTH_SIDES), rows)


TRAINED = {
    "write": DECODER["write"],
    "words": DECODER["words"],
    "class": {"template": "{text} so", "method": PREFIX, "objective": CLASSES},
}
OPTIMIZER = {"learning_rate": 0.05, "clip_norm": 0.5}


@pytest.mark.slow
def test_a_run_learns_what_each_task_learns_alone_and_leaves_a_run_of_each(stories, rows, tmp_path, quiet):
    # As many of each in a batch, in the order of the file: the batches of each task are those that it has alone.
    files = {"train": rows, "validation": rows[:5]}
    for name, part in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = {name: str(tmp_path / f"{name}.jsonl") for name in files} | {"shuffle": False, "packing": False}
    train = {"steps": 4, "eval_every": 2, "log_every": 1}
    whole = load_config(
        {
            "model": STORIES, "tasks": TRAINED, "data": data, "optimizer": OPTIMIZER,
            "train": train | {"batch_size": 12}, "run_dir": str(tmp_path / "run"),
        }
    )  # fmt: skip
    found = jaxprompt.train(whole, backbone=stories, reporter=quiet)
    assert list(found.prompt) == list(TRAINED)
    for task, of_task in task_configs(whole).items():
        own = of_task.model_copy(
            update={
                "run_dir": str(tmp_path / "alone" / task),
                "train": of_task.train.model_copy(update={"batch_size": 4}),
            }
        )
        alone = jaxprompt.train(own, backbone=stories, reporter=quiet)
        agree(found.prompt[task].conditioning, alone.prompt.conditioning)
        agree(found.prompt[task].head, alone.prompt.head)
        for figure in ("loss", "accuracy", "best_step", "train_loss"):
            if figure in alone.metrics:
                assert found.metrics["tasks"][task][figure] == pytest.approx(alone.metrics[figure], rel=1e-4)

        # And it is a run like another.
        folder = found.run_dir / "tasks" / task
        there = evaluate_run(folder, backbone=stories)
        assert there["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-4)
        texts = [row["text"] for row in rows[:2]]
        answers = [answer["prediction"] for answer in predict_run(own.run_dir, texts, stories)]
        assert [answer["prediction"] for answer in predict_run(folder, texts, stories)] == answers
        mixed = predict_run(found.run_dir, [{"text": text, "task": task} for text in texts], stories)
        assert [answer["prediction"] for answer in mixed] == answers
    losses = [figures["loss"] for figures in found.metrics["tasks"].values()]
    assert found.metrics["loss"] == pytest.approx(np.mean(losses)) and found.metrics["step"] == 4
    assert evaluate_run(found.run_dir, backbone=stories)["loss"] == pytest.approx(found.metrics["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(stories, rows, tmp_path, quiet):
    whole = config(
        TRAINED,
        rows,
        optimizer=OPTIMIZER,
        train={"steps": 6, "batch_size": 6, "eval_every": 3, "log_every": 1},
        run_dir=str(tmp_path / "run"),
    )
    first = jaxprompt.train(whole, backbone=stories, reporter=quiet)
    shutil.rmtree(first.run_dir / "checkpoints" / "6")
    (first.run_dir / "result.json").unlink()
    again = jaxprompt.train(whole, backbone=stories, reporter=quiet)
    assert again.metrics == first.metrics
    jax.tree.map(
        np.testing.assert_array_equal,
        [prompt.conditioning for prompt in first.prompt.values()],
        [prompt.conditioning for prompt in again.prompt.values()],
    )
    # Finished, it says what it said.
    assert jaxprompt.train(whole, backbone=stories, reporter=quiet).metrics == first.metrics
    assert json.loads((first.run_dir / "tasks" / "words" / "result.json").read_text())["step"] == 6


def test_rows_in_memory_may_be_as_many_as_there_is_memory_for(rows):
    many = rows * 1000
    config(TRAINED, many)
    tasks = {task: {**own, "data": {"train": many}} for task, own in TRAINED.items()}
    assert task_configs(load_config({"model": STORIES, "tasks": tasks}))["words"].data.train == many


def test_a_config_of_several_tasks_is_not_one_of_one(stories, rows):
    with pytest.raises(InputError, match="the config is of several tasks"):
        build(config(TRAINED, rows), stories)


def test_more_of_a_task_is_drawn_where_the_config_weighs_it(stories, rows):
    tasks = {name: TRAINED[name] for name in ("write", "words")}
    whole = config(tasks, rows, train={"batch_size": 8})
    weighed = whole.model_copy(update={"data": whole.data.model_copy(update={"weights": [3.0, 1.0]})})
    data = SeveralData.load(build_several(weighed, stories, None, None))
    batch = data.train[0]
    assert np.bincount(batch.answers["task"][batch.index >= 0]).tolist() == [6, 2]


@pytest.mark.parametrize(
    ("tasks", "sections", "said"),
    [
        ({"one": TRAINED["write"]}, {}, "tasks has to name two or more"),
        ({"a": {"templat": "x"}, "b": {}}, {}, r"tasks.a has 'templat' \(did you mean 'template'\?\)"),
        ({"a/b": TRAINED["write"], "b": TRAINED["words"]}, {}, "tasks has the name 'a/b'"),
        ({"a": TRAINED["write"], "b": {"data": {"trian": "x"}}}, {}, "tasks.b: unknown config key 'data.trian'"),
        ({"a": TRAINED["write"], "b": TRAINED["words"]}, {"train": {"metric": "loss"}}, "train.metric is of one task"),
        (
            {"a": TRAINED["write"], "b": TRAINED["words"]},
            {"data": {"weights": [1.0]}},
            "one number for each of 2 tasks",
        ),
        (
            {"a": TRAINED["write"], "b": {"template": "{text} {target}", "method": {"name": "norms"}}},
            {},
            "the prompt of 'b' adds to 'final_norm/weight', which a batch has for all its examples: use it by itself",
        ),
        (
            {"a": TRAINED["write"], "b": {"template": "{text} {target}", "method": {"name": "gated_prefix"}}},
            {},
            "the prompt of 'b' holds gated",
        ),
        (
            {
                "a": TRAINED["write"],
                "b": {
                    "template": "{soft:4} {text} {target}",
                    "method": {"name": "together", "parts": [{"name": "multitask"}, {"name": "prefix"}]},
                },
            },
            {},
            "tasks.b: method.parts has multitask, which tasks share",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(stories, rows, tmp_path, quiet, tasks, sections, said):
    sections = {key: {"train": rows, **value} if key == "data" else value for key, value in sections.items()}
    with pytest.raises(InputError, match=said):
        jaxprompt.train(
            config(tasks, rows, run_dir=str(tmp_path / "run"), **sections), backbone=stories, reporter=quiet
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("bare_first", [True, False])
def test_an_encoder_is_gone_back_through_for_every_task_that_has_soft_tokens_there(seq2seq, rows, bare_first):
    """Of one task alone the prompt is on the decoder's side."""
    tasks = {
        "there": BOTH_SIDES["write"],
        "behind": BOTH_SIDES["write"] | {"template": "{text}{decoder}{soft:2} {target}"},
    }
    if bare_first:
        tasks = dict(reversed(tasks.items()))
    experiment = build_several(config(tasks, rows), seq2seq, None, None)
    assert not experiment.bare_source and experiment.parts["behind"].bare_source
    data = SeveralData.load(experiment)
    forward = experiment.forward(data.hoisted)
    batch = next(data.train_batches(0))
    _, _, found, _ = tasks_gradient(forward, experiment.method, forward.frozen(), experiment.init_trainable(), batch)
    for task in tasks:
        assert np.abs(experiment.method.of(task, found)["prompt"]["soft"]).max() > 1e-6, task
