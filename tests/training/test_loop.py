"""Runs: resuming, selection, stopping, what is written and what is refused."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.training import alone
from tests.conftest import STORIES
from tests.devices import run_on_eight_devices
from tests.training.killed import killed_at


def config(rows, run_dir, **sections):
    tree = {
        "model": STORIES,
        "template": "{soft:3} Review: {text} It was {target}",
        "method": {"init": {"top_k": 100}},
        "data": {"train": rows, "validation": rows[:5]},
        "optimizer": {"learning_rate": 0.05},
        "train": {"steps": 12, "batch_size": 5, "eval_every": 4, "log_every": 2},
        "run_dir": str(run_dir),
    }
    if sections.get("method") == {"name": "none"}:
        del tree["method"]  # whose options it does not have
    for name, values in sections.items():
        tree[name] = {**tree[name], **values} if isinstance(values, dict) and name in tree else values
    return tree


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_what_it_promises(stories, rows, tmp_path, quiet):
    result = jaxprompt.train(config(rows, tmp_path / "run"), backbone=stories, reporter=quiet)
    assert {p.name for p in result.run_dir.iterdir()} == {
        "config.yaml", "metrics.jsonl", "prompt.safetensors", "result.json", "checkpoints",
    }  # fmt: skip
    steps = [r for r in records(result.run_dir) if "validation" not in r]
    assert [r["step"] for r in steps] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "examples_per_second", "target_tokens_per_second", "grad_norm", "step_seconds"} <= steps[0].keys()
    evaluations = [r for r in records(result.run_dir) if "validation" in r]
    assert [r["step"] for r in evaluations] == [0, 4, 8, 12]
    best = min(evaluations, key=lambda r: r["validation"]["loss"])
    assert result.metrics["best_step"] == best["step"]
    assert result.metrics["loss"] == best["validation"]["loss"] < evaluations[0]["validation"]["loss"] - 0.2
    # Nothing of the frozen model is kept: its smallest copy is 1 MB.
    assert sum(p.stat().st_size for p in result.run_dir.rglob("*") if p.is_file()) < 200_000


@pytest.mark.parametrize(
    "method", ["soft", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prefix", "accumulate", "head"))]
)
def test_a_killed_run_resumes_to_the_bit_identical_prompt(stories, rows, tmp_path, quiet, monkeypatch, method):
    changes = {
        "soft": {"optimizer": {"schedule": "cosine", "warmup_steps": 3}},
        "prefix": {
            "template": "{text} It was {target}",
            "method": {"name": "prefix", "length": 4, "init": {"type": "zero"}},
        },
        "accumulate": {
            "train": {"batch_size": 6, "accumulate": 2},
            "optimizer": {"name": "adafactor", "learning_rate": 0.3},
        },
        "head": {"template": "{soft:2} {text}", "objective": {"type": "classifier"}, "optimizer": {"name": "sgd"}},
    }[method]
    whole = jaxprompt.train(config(rows, tmp_path / "whole", **changes), backbone=stories, reporter=quiet)

    killed = killed_at(monkeypatch, alone, "make_train_step", 11)
    with pytest.raises(killed):
        jaxprompt.train(config(rows, tmp_path / "cut", **changes), backbone=stories, reporter=quiet)
    monkeypatch.undo()
    assert sorted(int(p.name) for p in (tmp_path / "cut" / "checkpoints").iterdir()) == [4, 8]
    resumed = jaxprompt.train(config(rows, tmp_path / "cut", **changes), backbone=stories, reporter=quiet)
    assert resumed.prompt.arrays.keys() == whole.prompt.arrays.keys()
    for name, array in whole.prompt.arrays.items():
        assert array.tobytes() == resumed.prompt.arrays[name].tobytes()
    for name, array in whole.prompt.head.items():
        assert array.tobytes() == resumed.prompt.head[name].tobytes()
    assert resumed.metrics == whole.metrics
    timeless = [
        [{k: v for k, v in r.items() if "second" not in k} for r in records(tmp_path / run)] for run in ("whole", "cut")
    ]
    assert timeless[0] == timeless[1]


EIGHT_DEVICES = """
import json, sys
import jax, jaxprompt

assert jax.device_count() == 8
result = jaxprompt.train(json.loads(sys.argv[1]))
print(json.dumps({name: array.tolist() for name, array in result.prompt.arrays.items()}))
"""


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(stories, rows, tmp_path, quiet):
    tree = config(rows, tmp_path / "run")
    whole = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    # As if it had been cut off behind step 8.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    (tmp_path / "run" / "result.json").unlink()
    tree = {**tree, "mesh": {"fsdp": 2}, "train": {**tree["train"], "remat": "full"}}
    found = json.loads(run_on_eight_devices(EIGHT_DEVICES, json.dumps(tree)).splitlines()[-1])
    assert found.keys() == whole.prompt.arrays.keys()
    for name, array in whole.prompt.arrays.items():
        np.testing.assert_allclose(found[name], array, atol=2e-5)
    assert [r["step"] for r in records(tmp_path / "run") if "validation" in r] == [0, 4, 8, 12]


def test_a_run_without_a_folder_is_found_again_on_other_devices(stories, rows, tmp_path, quiet, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {**config(rows, "", train={"steps": 2}), "run_dir": None}
    folders = [
        jaxprompt.train({**tree, **changes}, backbone=stories, reporter=quiet).run_dir
        for changes in ({}, {"mesh": {"data": 1}}, {"seed": 1})
    ]
    assert folders[0] == folders[1] != folders[2]


def test_a_finished_run_is_returned_as_it_is(stories, rows, tmp_path, quiet):
    tree = config(rows, tmp_path / "run", train={"steps": 4, "eval_start": False})
    first = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert [r["step"] for r in records(first.run_dir) if "validation" in r] == [4]
    before = (first.run_dir / "metrics.jsonl").read_bytes()
    again = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert again.metrics == first.metrics
    assert (first.run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_seed_decides_everything(stories, rows, tmp_path, quiet):
    prompts = [
        jaxprompt.train(config(rows, tmp_path / name, train={"steps": 3}, seed=seed), backbone=stories, reporter=quiet)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = (p.prompt.soft for p in prompts)
    assert a.tobytes() == b.tobytes()
    assert not np.allclose(a, c)


@pytest.mark.slow
def test_no_improvement_stops_early_and_the_best_prompt_is_kept(stories, rows, tmp_path, quiet):
    # What is learned is the opposite of what is validated.
    data = {
        "train": [{**row, "label": 0} for row in rows],
        "validation": [{**row, "label": 1} for row in rows],
    }
    objective = {"type": "verbalizer", "labels": {"0": "bad", "1": "good"}}
    tree = config(rows, tmp_path / "run", data=data, objective=objective, train={"patience": 2})
    result = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    losses = [r["validation"]["loss"] for r in records(result.run_dir) if "validation" in r]
    assert losses[2] > losses[0] < losses[1]
    assert (result.metrics["step"], result.metrics["best_step"], len(losses)) == (8, 0, 3)
    start = jaxprompt.train(
        config(rows, tmp_path / "start", data=data, objective=objective, train={"steps": 0}),
        backbone=stories,
        reporter=quiet,
    )
    assert result.prompt.soft.tobytes() == start.prompt.soft.tobytes()
    assert jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics == result.metrics


def test_a_fixed_prompt_is_scored_without_training(stories, rows, tmp_path, quiet):
    tree = config(
        rows,
        tmp_path / "run",
        template="这篇文章的类别是 {text}{target}",
        method={"name": "none"},
        objective={"type": "verbalizer", "labels": {"0": "bad", "1": "good"}},
        data={"train": None},
        train={"steps": 0},
    )
    result = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert 0 <= result.metrics["accuracy"] <= 1
    assert result.prompt.arrays == {}


@pytest.mark.slow
def test_a_prompt_starts_from_another_run(stories, rows, tmp_path, quiet):
    first = jaxprompt.train(config(rows, tmp_path / "a", train={"steps": 3}), backbone=stories, reporter=quiet)
    start = {"init": {"type": "file", "path": str(first.run_dir)}}
    second = jaxprompt.train(
        config(rows, tmp_path / "b", method=start, train={"steps": 0}), backbone=stories, reporter=quiet
    )
    assert second.prompt.soft.tobytes() == first.prompt.soft.tobytes()
    with pytest.raises(InputError, match=r"\(3, 64\), this experiment needs \(4, 64\)"):
        jaxprompt.train(
            config(rows, tmp_path / "c", template="{soft:4}{text} {target}", method=start),
            backbone=stories,
            reporter=quiet,
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"learning_rate": 0.01}}, "holds another experiment (optimizer.learning_rate is 0.05 there"),
        ({"data": {"train": [{"text": "x", "target": "y"}]}}, "holds another experiment (data.train"),
    ],
)
def test_a_run_folder_with_another_config_is_refused_untouched(stories, rows, tmp_path, quiet, changes, says):
    first = jaxprompt.train(config(rows, tmp_path / "run", train={"steps": 2}), backbone=stories, reporter=quiet)
    before = {p: p.read_bytes() for p in first.run_dir.rglob("*") if p.is_file()}
    with pytest.raises(InputError) as error:
        jaxprompt.train(
            config(rows, tmp_path / "run", **{"train": {"steps": 2}, **changes}), backbone=stories, reporter=quiet
        )
    assert says in str(error.value)
    assert {p: p.read_bytes() for p in first.run_dir.rglob("*") if p.is_file()} == before


def test_a_folder_that_is_no_run_is_refused_untouched(stories, rows, tmp_path, quiet):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a run and not empty"):
        jaxprompt.train(config(rows, tmp_path), backbone=stories, reporter=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_changed_data_or_backbone_is_refused(stories, rows, tmp_path, quiet):
    import dataclasses

    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = config(rows, tmp_path / "run", data={"train": str(path)}, train={"steps": 4})
    jaxprompt.train(tree, backbone=stories, reporter=quiet)
    with pytest.raises(InputError, match="another backbone"):
        jaxprompt.train(tree, backbone=dataclasses.replace(stories, fingerprint="f" * 16), reporter=quiet)
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    with pytest.raises(InputError, match="another training set"):
        jaxprompt.train(tree, backbone=stories, reporter=quiet)


def test_a_diverging_run_stops_with_advice(stories, rows, tmp_path, quiet):
    tree = config(rows, tmp_path / "run", optimizer={"name": "sgd", "learning_rate": 1e38, "weight_decay": 1e38})
    with pytest.raises(InputError, match=r"is not finite, in 10 steps in a row .*learning_rate"):
        jaxprompt.train(tree, backbone=stories, reporter=quiet)


def test_a_step_that_finds_no_memory_stops_with_advice(stories, rows, tmp_path, quiet, monkeypatch):
    tree = config(rows, tmp_path / "run", train={"eval_every": 2, "checkpoint_every": 2})
    real = alone.make_train_step

    def hungry(*args):
        step = real(*args)

        def eats(state, batch):
            return step(state, batch) if int(state.step) < 3 else jnp.zeros(1 << 50, jnp.int8)

        eats.ahead = step.ahead
        return eats

    monkeypatch.setattr(alone, "make_train_step", hungry)
    with pytest.raises(
        InputError, match=r"not enough device memory \(.*1125899906842624 bytes\): set train.remat=full"
    ):
        jaxprompt.train(tree, backbone=stories, reporter=quiet)
    monkeypatch.undo()
    tree["train"]["remat"] = "full"
    assert jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics["step"] == 12
    assert [r["step"] for r in records(tmp_path / "run") if "loss" in r] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"template": "{soft:3} {txet} {target}"}, "unknown field 'txet' in template (did you mean 'text'?)"),
        ({"template": "{text} {target}"}, "no {soft:N} slot"),
        ({"template": "{soft:2} {text}"}, "{target}"),
        ({"method": {"name": "prefix"}}, "remove {soft:N}"),
        ({"data": {"target": "answer"}}, "data.target"),
        ({"train": {"accumulate": 2}}, "does not divide"),
        ({"data": {"train": None}}, "data.train is not set"),
        ({"data": {"max_length": 5}}, "do not fit max_length 5"),
        ({"data": {"max_length": 5000}}, "512 positions"),
        ({"objective": {"type": "verbalizer", "labels": {"0": "bad", "2": "good"}}}, "unknown label 1"),
        ({"template": "{text} {target}", "method": {"name": "none"}}, "nothing to learn"),
        ({"method": {"init": {"type": "zero"}}}, "prefix tuning"),
        ({"method": {"init": {"type": "labels"}}}, "objective.labels"),
        ({"method": {"init": {"type": "file", "path": "nowhere"}}}, "'nowhere' does not exist"),
        ({"data": {"per_label": 3}}, "'label'"),
    ],
)
def test_bad_experiments_are_refused_in_one_line_with_nothing_written(stories, rows, tmp_path, quiet, changes, says):
    rows = [dict(row) for row in rows]
    if "per_label" in changes.get("data", {}):
        rows = [{"text": row["text"], "target": "x"} for row in rows]
    with pytest.raises(InputError) as error:
        jaxprompt.train(config(rows, tmp_path / "run", **changes), backbone=stories, reporter=quiet)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
