"""Runs on rows that are read, or changed, when they are drawn."""

import itertools
import json
import sys

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.data.loader import FreshLoader
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from tests.conftest import STORIES

ROWS = [
    {"text": f"{'the dog ran ' * (1 + number % 4)}{number}", "other": f"a cat {number}", "label": "gb"[number % 2]}
    for number in range(40)
]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("a", ROWS[:30]), ("b", ROWS[30:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def tree(files, train="a.jsonl", template="{soft:3}{text} It was {target}", run="run", **data):
    train = [str(files / one) for one in train] if isinstance(train, list) else str(files / train)
    return {
        "model": STORIES,
        "template": template,
        "method": {"init": {"top_k": 100}},
        "objective": {"type": "verbalizer", "labels": {"g": "good", "b": "bad"}},
        "data": {"train": train, "validation": ROWS[:6], **data},
        "train": {"steps": 8, "batch_size": 4, "eval_every": 4, "checkpoint_every": 4, "log_every": 1},
        "run_dir": str(files / run),
    }


def batches(stories, config, count, start=0):
    data = TrainingData.load(build(load_config(config), stories))
    return data, list(itertools.islice(data.train_batches(start), count))


def numbers(batch):
    return sorted(batch.index[batch.index >= 0].tolist())


def killed_and_whole(given, stories, quiet):
    """Runs it whole, and killed behind step 6 and resumed; the prompts are equal. Returns the second's config."""
    whole = jaxprompt.train(given, backbone=stories, reporter=quiet)
    halves = {**given, "run_dir": given["run_dir"] + "_halves"}

    class Killed(Exception):
        pass

    class Killing(type(quiet)):
        def log(self, record, steps):
            if record["step"] == 6:
                raise Killed

    with pytest.raises(Killed):
        jaxprompt.train(halves, backbone=stories, reporter=Killing(quiet=True))
    resumed = jaxprompt.train(halves, backbone=stories, reporter=quiet)
    np.testing.assert_array_equal(whole.prompt.soft, resumed.prompt.soft)
    assert whole.metrics["loss"] == resumed.metrics["loss"]
    return halves


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("template", ["{soft:3}{text} It was {target}", "{bos}Review: {soft:2}{text}{soft:1} {target}"])
def test_a_stream_has_the_examples_of_the_file_and_can_be_entered_at_any_step(stories, files, template, packing):
    whole = TrainingData.load(build(load_config(tree(files, template=template, balance=False)), stories))
    given = tree(files, template=template, stream=True, packing=packing)
    given["train"]["batch_size"] = 5
    data, found = batches(stories, given, 12)
    assert isinstance(data.train, FreshLoader)
    # Of what all examples share, all but the last id is taken off.
    assert 0 <= len(whole.hoisted) - len(data.hoisted) <= 3 and data.hoisted == whole.hoisted[: len(data.hoisted)]
    assert len(data.hoisted) >= 2
    drawn = np.concatenate([numbers(batch) for batch in found])
    assert sorted(drawn[:30].tolist()) == sorted(drawn[30:].tolist()) == list(range(30))
    assert drawn[:30].tolist() != drawn[30:].tolist()
    entered = list(itertools.islice(data.train_batches(9), 3))
    jax.tree.map(np.testing.assert_array_equal, entered, found[9:])
    # Each example is what it is in memory.
    experiment = build(load_config(tree(files, template=template)), stories)
    for example, row in zip(experiment.encode(ROWS[:30]), range(30), strict=True):
        fresh = data.train.encode(row, 0)
        assert [*data.hoisted, *fresh.ids] == example.ids.tolist() and fresh.answers == example.answers


@pytest.mark.slow
def test_a_killed_stream_goes_on_as_if_it_had_not_been(stories, files, quiet):
    halves = killed_and_whole(tree(files, stream=True), stories, quiet)
    # Other bytes under the same name are another run.
    (files / "a.jsonl").write_text((files / "a.jsonl").read_text().replace("dog", "cow"))
    with pytest.raises(InputError, match="was made with another training set"):
        jaxprompt.train({**halves, "data": halves["data"]}, backbone=stories, reporter=quiet)


@pytest.mark.slow
def test_processes_make_the_same_batches(stories, files):
    given = tree(files, stream=True, augment={"swap": 0.3}, workers=2)
    data, found = batches(stories, given, 5, start=3)
    jax.tree.map(np.testing.assert_array_equal, found, [data.train[step] for step in range(3, 8)])


def test_an_error_in_a_thread_or_a_process_is_the_row_s(stories, files):
    text = (files / "a.jsonl").read_text().splitlines(keepends=True)
    (files / "a.jsonl").write_text("".join([*text[:29], '{"text": "x"}\n']))
    for workers in (0, 1):
        config = tree(files, stream=True, workers=workers)
        with pytest.raises(InputError, match=r"a\.jsonl: row 30 has no 'label': its columns are text; set data\.label"):
            data, _ = batches(stories, config, 0)
    # A file that changes under way is not read on.
    data = TrainingData.load(build(load_config(tree(files, "b.jsonl", stream=True)), stories))
    (files / "b.jsonl").write_text((files / "b.jsonl").read_text().replace("}", " ", 1))
    with pytest.raises(InputError, match=r"b\.jsonl: the file was changed while it was read"):
        list(itertools.islice(data.train_batches(0), 5))


def test_an_example_larger_than_the_sample_s_comes_in_longer_rows(stories, files, monkeypatch):
    monkeypatch.setattr("jaxprompt.experiment.data.SAMPLE", 4)
    rows = [*ROWS[:20], {"text": "the dog ran " * 30, "label": "g"}]
    (files / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, found = batches(stories, tree(files, "c.jsonl", stream=True, shuffle=False), 6)
    lengths = [batch.inputs.ids.shape[1] for batch in found]
    assert lengths[:5] == [data.train.plan.row_length] * 5 and lengths[5] > lengths[0]
    longest = data.train.encode(20, 0).ids
    assert any((row[: len(longest)] == longest).all() for row in found[5].inputs.ids)


def test_files_by_weight(stories, files):
    for stream in (False, True):
        _, found = batches(stories, tree(files, ["a.jsonl", "b.jsonl"], weights=[1, 3], stream=stream), 10)
        drawn = np.array([numbers(batch) for batch in found])
        assert (drawn >= 30).sum() == 30 and ((drawn >= 30).sum(1) == 3).all()
    _, found = batches(stories, tree(files, ["a.jsonl", "b.jsonl"], temperature=1e9), 10)
    assert (np.array([numbers(batch) for batch in found]) >= 30).sum() == 20


def test_texts_change_by_epoch_and_labels_do_not(stories, files):
    given = tree(files, augment={"delete": 0.4, "alternatives": {"text": ["other"]}})
    data, found = batches(stories, given, 15)
    again, same = batches(stories, given, 15)
    jax.tree.map(np.testing.assert_array_equal, found, same)
    assert data.fingerprints == again.fingerprints
    epochs = [[data.train.encode(number, epoch) for number in range(30)] for epoch in (0, 1)]
    changed = [one.ids.tolist() != other.ids.tolist() for one, other in zip(*epochs, strict=True)]
    assert sum(changed) > 20
    assert all(one.answers == other.answers for one, other in zip(*epochs, strict=True))
    # Validation stays as it is.
    plain = TrainingData.load(build(load_config(tree(files)), stories))
    ids = [[int(i) for i in [*run.hoisted, *run.validation.loader.examples[0].ids]] for run in (data, plain)]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_a_run_with_changed_texts_is_resumed_at_exactly(stories, files, quiet):
    killed_and_whole(
        tree(files, augment={"swap": 0.3, "templates": ["{soft:3}Review: {text} It was {target}"]}), stories, quiet
    )


def test_other_templates_are_drawn_and_what_they_share_is_hoisted(stories, files):
    given = tree(
        files,
        template="{bos}{soft:3} A: {text} It was {target}",
        augment={"templates": ["{bos}{soft:3} Film: {text} It was {target}"]},
    )
    data, _ = batches(stories, given, 1)
    assert len(data.hoisted) == 3  # bos and all but the last of the soft tokens
    heads = {tuple(data.train.encode(0, epoch).ids.tolist()) for epoch in range(20)}
    assert len(heads) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stream": True, "per_label": 2}, "data.per_label needs all rows at once"),
        ({"stream": True, "holdout": 2, "validation": None}, "data.holdout needs all rows at once"),
        ({"weights": [1.0]}, "data.weights and data.temperature are for several files"),
        ({"train": ["a.jsonl", "b.jsonl"], "weights": [1.0]}, "data.weights has 1 numbers for 2 files"),
        ({"train": ["a.jsonl", "b.jsonl"], "weights": [1.0, 1.0], "temperature": 2.0}, "leave one out"),
        (
            {"train": ["a.jsonl", "b.jsonl"], "temperature": 2.0, "train_rows": 3},
            "data.train_rows is for one set of rows",
        ),
        ({"augment": {"delete": 0.1, "columns": ["label"]}}, "data.augment would change 'label'"),
        ({"augment": {"delete": 0.1, "columns": ["other"]}}, "data.augment names 'other', which is no field"),
        ({"augment": {"alternatives": {"text": ["txet"]}}}, "no column 'txet', which data.augment.alternatives names"),
        ({"augment": {"templates": ["{soft:2}{text} {target}"]}}, "with 2 soft tokens, the template has 3"),
        ({"augment": {"templates": ["{soft:3}{text}{target}"]}}, "the label words have other tokens in template"),
        ({"augment": {"templates": ["{soft:3}{text}"]}}, "has no {target}"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(stories, files, data, message):
    given = tree(files, data.pop("train", "a.jsonl"), **data)
    with pytest.raises(InputError) as error:
        TrainingData.load(build(load_config(given), stories))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_classes_of_a_stream_are_named(stories, files):
    given = tree(files, stream=True)
    given["objective"] = {"type": "verbalizer"}
    with pytest.raises(InputError, match=r"objective\.labels is not set, and a stream is not read through"):
        build(load_config(given), stories)


def test_without_grain_the_extra_is_named(stories, files, monkeypatch):
    data = TrainingData.load(build(load_config(tree(files, augment={"swap": 0.1})), stories))
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(InputError, match=r"need grain \(pip install 'jaxprompt\[stream\]'"):
        next(data.train_batches(0))
