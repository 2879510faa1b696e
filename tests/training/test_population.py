"""Many prompts by one step: each as its own run learns it, whatever becomes of the others."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxprompt
import jaxprompt.experiment.build
from jaxprompt.config import load_config
from jaxprompt.config.population import members_of
from jaxprompt.errors import InputError
from jaxprompt.training import loop, population
from tests.conftest import STORIES
from tests.training.killed import killed_at

SOFT = "Read. {soft:3} Review: {text} It was {target}"


def config(rows, run_dir, varied, **sections):
    tree = {
        "model": STORIES,
        "template": SOFT,
        "method": {"init": {"top_k": 100}},
        "data": {"train": rows, "validation": rows[:5]},
        "optimizer": {"learning_rate": 0.05},
        "train": {"steps": 4, "batch_size": 4, "eval_every": 2, "log_every": 1},
        "population": varied,
        "run_dir": str(run_dir),
    }
    for name, values in sections.items():
        merge = isinstance(values, dict) and name in tree and name != "method"
        tree[name] = {**tree[name], **values} if merge else values
    return tree


def records(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def close(one, other, tolerance):
    """Whether results are the same up to rounding."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == (pytest.approx(value, rel=tolerance) if isinstance(value, float) else value), name


def check_members(tree, backbone, quiet, tmp_path, tolerance=1e-5, only=None):
    """Learns the population, and some members by themselves; compares all that they leave.

    Without `only` the first, the middle one and the last, which differ in every value.
    """
    whole = jaxprompt.train(tree, backbone=backbone, reporter=quiet)
    members = members_of(load_config(tree))
    assert list(whole.metrics["members"]) == list(members)
    names = list(members)
    for name in only or dict.fromkeys((names[0], names[len(names) // 2], names[-1])):
        folder, alone = whole.run_dir / "members" / name, tmp_path / "alone" / name
        own = jaxprompt.train(members[name], backbone=backbone, reporter=quiet, run_dir=str(alone))
        learned = jaxprompt.load_prompt(folder)
        for array, other in zip(jax.tree.leaves((own.prompt.conditioning, own.prompt.head)),
                                jax.tree.leaves((learned.conditioning, learned.head)), strict=True):  # fmt: skip
            np.testing.assert_allclose(array, other, atol=tolerance)
        close(own.metrics, whole.metrics["members"][name], tolerance)
        for one, other in zip(records(alone), records(folder), strict=True):
            close(one.get("validation", one), other.get("validation", other), 10 * tolerance)
    return whole


def test_each_member_is_its_own_run(stories, rows, tmp_path, quiet):
    varied = {"seed": [0, 1], "optimizer.learning_rate": [0.05, 0.1]}
    tree = config(rows, tmp_path / "run", varied)
    whole = check_members(tree, stories, quiet, tmp_path, only=["seed=1,learning_rate=0.1"])
    losses = {name: result["loss"] for name, result in whole.metrics["members"].items()}
    assert whole.metrics["best_member"] == min(losses, key=losses.get)
    values = list(losses.values())
    assert whole.metrics["mean"]["loss"] == pytest.approx(np.mean(values))
    assert whole.metrics["std"]["loss"] == pytest.approx(np.std(values, ddof=1))
    assert (whole.metrics["min"]["loss"], whole.metrics["max"]["loss"]) == (min(values), max(values))
    assert len(set(values)) == 4
    # The folder is used as its best member's, and each member's as a run's.
    best = whole.run_dir / "members" / whole.metrics["best_member"]
    assert (best / "prompt.safetensors").read_bytes() == (whole.run_dir / "prompt.safetensors").read_bytes()
    assert json.loads((whole.run_dir / "result.json").read_text()) == whole.metrics
    assert jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics == whole.metrics


# Adam makes as much of the sign of what is nothing but rounding as of anything else.
SGD = {"name": "sgd", "learning_rate": 0.5}
EXAMPLES = "{soft:54}Review: {text} It was {target}"
CASES = {
    "optimizer": (
        {"optimizer.b1": [0.9, 0.5], "optimizer.weight_decay": [0.0, 0.1], "optimizer.clip_norm": [None, 0.1]},
        {},
    ),
    "schedules": (
        {"optimizer.schedule": ["constant", "linear", "cosine"], "optimizer.warmup_steps": [0, 2]},
        {"optimizer": {"name": "sgd", "learning_rate": 0.5}},
    ),
    "momentum": (
        {"optimizer.momentum": [0.0, 0.9], "seeds.start": [3, 4]},
        {"optimizer": {"name": "sgd", "learning_rate": 0.5}},
    ),
    "adafactor": (
        # Adafactor divides as Adam does, so that at the published rate rounding would grow as fast.
        {"optimizer.learning_rate": [0.002, 0.005], "optimizer.weight_decay": [0.0, 1e-3]},
        {"optimizer": {"name": "adafactor", "learning_rate": 0.3}, "train": {"accumulate": 2}},
    ),
    "starts": (
        {"method.init.text": ["a good film", "once upon a time"]},
        {"method": {"init": {"type": "text", "text": "a"}}},
    ),
    "alpha": (
        {"method.alpha": [4.0, 16.0], "optimizer.rates.deltas": [0.005, 0.01]},
        {"method": {"name": "lora", "rank": 2}, "template": "{text} It was {target}"},
    ),
    "examples": (
        {"method.text_bound": [0.1, 2.0], "seeds.data": [0, 1]},
        {"method": {"name": "cpt", "examples": 2}, "template": EXAMPLES, "optimizer": SGD},
    ),
    "few": ({"seeds.data": [0, 1]}, {"data": {"per_label": 2}, "objective": {"type": "verbalizer",
            "labels": {0: "bad", 1: "good"}}}),
    "augmented": ({"seed": [0, 1]}, {"data": {"augment": {"delete": 0.3}}}),
    "classifier": ({"seed": [0, 1]}, {"template": "{soft:3} {text}", "objective": {"type": "classifier"}}),
    "length": ({"prompt_length": [2, 5]}, {}),
    "length in the text": ({"prompt_length": [1, 4], "seed": [0, 1]}, {"template": "{text} {soft:1} It was {target}"}),
    "length and no text": ({"prompt_length": [2, 5]}, {"template": "{soft:1}{text} It was {target}",
                           "method": {"name": "p_tuning", "hidden": 8},
                           "optimizer": SGD | {"learning_rate": 0.1}}),
    "prefix": ({"method.length": [2, 5]}, {"method": {"name": "prefix"}, "template": "Read. {text} It was {target}",
               "optimizer": SGD}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_whatever_members_differ_in(stories, rows, tmp_path, quiet, case):
    varied, sections = CASES[case]
    check_members(config(rows, tmp_path / "run", varied, **sections), stories, quiet, tmp_path)


def check_lengths_and_starts(tree, backbone, quiet, tmp_path, prefix):
    """Of a model that is no decoder: each length and each start once."""
    tree["population"] = {"method.length" if prefix else "prompt_length": [2, 4], "seeds.start": [0, 1]}
    tree["optimizer"] = SGD
    if prefix:
        tree["method"] = {"name": "prefix", "init": {"type": "normal"}}
    only = list(members_of(load_config(tree)))[1:3]
    check_members(tree, backbone, quiet, tmp_path, 2e-5, only)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [False, True])
def test_encoders(minilm, rows, tmp_path, quiet, prefix):
    sections = {"template": "{text}" if prefix else "{soft:1}{text}", "objective": {"type": "classifier"}}
    check_lengths_and_starts(config(rows, tmp_path / "run", {}, **sections), minilm, quiet, tmp_path, prefix)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [False, True])
def test_encoder_decoders(seq2seq, rows, tmp_path, quiet, prefix):
    template = "{text} {target}" if prefix else "{soft:1}{text} {target}"
    check_lengths_and_starts(config(rows, tmp_path / "run", {}, template=template), seq2seq, quiet, tmp_path, prefix)


def _products(text):
    return text.count("stablehlo.dot_general")


def test_a_product_with_a_weight_is_one_for_all_members(stories, rows, tmp_path, quiet, monkeypatch):
    """As many products as one run has, and no weight with an axis of members."""
    found = {}

    class Stop(BaseException):
        pass

    def lowered(name):
        def of(self, state, checkpoints):
            step, batch = self.learner.step, self.place(next(self.data.train_batches(0)))
            found[name] = step.jitted.lower(step.frozen, state, batch).as_text()
            raise Stop

        return of

    for name, varied in (("one", {}), ("four", {"seed": [0, 1], "optimizer.learning_rate": [0.1, 0.2]})):
        monkeypatch.setattr(loop._Run, "_loop", lowered(name))
        with pytest.raises(Stop):
            jaxprompt.train(config(rows, tmp_path / name, varied), backbone=stories, reporter=quiet)
    assert _products(found["four"]) == _products(found["one"])
    layers = stories.params["layers"]["mlp"]["up"]["weight"].shape
    assert "x".join(map(str, layers)) in found["four"]
    assert f"4x{'x'.join(map(str, layers[1:]))}xf32" not in found["four"]
    # Neither is anything of the backbone's size part of the program.
    assert len(found["four"]) < 1e6


def everything(run_dir):
    """All that is in a run's folder but checkpoints and times."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        name = path.relative_to(run_dir)
        if path.is_file() and name.parts[0] != "checkpoints":
            found[str(name)] = records(path.parent) if path.name == "metrics.jsonl" else path.read_bytes()
    return {name: value for name, value in found.items() if not name.endswith("config.yaml")}


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted_with_members_that_stop_and_one_that_fails(
    stories, rows, tmp_path, quiet, monkeypatch
):
    # A prompt that does not move stops early; one that decays by so much leaves all numbers behind.
    varied = {"optimizer.weight_decay": [0.0, 3e38], "optimizer.learning_rate": [0.0, 0.05]}
    train = {"steps": 6, "eval_every": 1, "patience": 2, "max_bad_steps": 2}
    sections = {"train": train, "optimizer": {"name": "sgd", "clip_norm": None}}
    tree = config(rows, tmp_path / "whole", varied, **sections)
    whole = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    names = [f"weight_decay={decay},learning_rate={rate}" for decay in ("0.0", "3e+38") for rate in ("0.0", "0.05")]
    assert list(whole.metrics["members"]) == names[:3]
    assert [whole.metrics["members"][name]["step"] for name in names[:2]] == [2, 6]
    assert whole.metrics["failed"].keys() == {names[3]}
    assert "is not finite, in 2 steps in a row" in whole.metrics["failed"][names[3]]
    assert [record["step"] for record in records(whole.run_dir / "members" / names[0]) if "loss" in record] == [1, 2]
    # Unlike the second, it is where it began.
    start = jaxprompt.experiment.build.build(members_of(load_config(tree))[names[0]], stories).init_trainable()
    np.testing.assert_array_equal(
        jaxprompt.load_prompt(whole.run_dir / "members" / names[0]).soft, start["prompt"]["soft"]
    )

    tree["run_dir"] = str(tmp_path / "cut")
    killed = killed_at(monkeypatch, population, "compiled_step", 5)
    with pytest.raises(killed):
        jaxprompt.train(tree, backbone=stories, reporter=quiet)
    monkeypatch.undo()
    resumed = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert resumed.metrics == whole.metrics
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    # A result that a kill took: the best prompts are scored again.
    (tmp_path / "cut" / "members" / names[1] / "result.json").unlink()
    again = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    close(again.metrics["members"][names[1]], whole.metrics["members"][names[1]], 1e-6)


@pytest.mark.slow
def test_the_last_one_that_learns_is_given_up_and_those_that_have_stopped_stay(stories, rows, tmp_path, quiet):
    train = {"steps": 6, "eval_every": 1, "patience": 2, "max_bad_steps": 2}
    optimizer = {"name": "sgd", "clip_norm": None, "weight_decay": 3e38}
    tree = config(rows, tmp_path / "run", {"optimizer.learning_rate": [0.0, 0.05]}, train=train, optimizer=optimizer)
    metrics = jaxprompt.train(tree, backbone=stories, reporter=quiet).metrics
    assert list(metrics["members"]) == ["learning_rate=0.0"] and list(metrics["failed"]) == ["learning_rate=0.05"]


@pytest.mark.parametrize(
    ("varied", "sections", "says"),
    [
        ({"train.batch_size": [2, 4]}, {}, r"population has 'train\.batch_size', which would be another program: it may have"),
        ({"seed": [0, 0]}, {}, r"population has 'seed' with \[0, 0\]: give it one or more different values"),
        ({"seed": [-1]}, {}, "'seed' has the value -1"),
        ({"optimizer.rate": [1.0]}, {}, r"unknown config key 'optimizer\.rate'"),
        ({"method.frozen": [0, 1]}, {}, r"population has method\.frozen, by which arrays of other shapes are learned"),
        ({"prompt_length": [1, 2]}, {"template": "{soft:1}{text}{soft:1} {target}"}, r"the only \{soft:N\} of a template"),
        ({"prompt_length": [1, 2]}, {"optimizer": {"name": "adafactor"}}, "adafactor scales a prompt's rows by all of them"),
        (
            {"prompt_length": [2, 3]},
            {"method": {"name": "p_tuning", "encoder": "lstm"}},
            "a row by method p_tuning depends on how many there are",
        ),
        (
            {"seed": [0, 1]},
            {"method": {"name": "cpt", "examples": 2}, "template": EXAMPLES},
            "method cpt draws other examples: it may not have seed, seeds.start or prompt_length",
        ),
        ({"seed": [0, 1]}, {"data": {"cache": "memory"}}, r"data\.cache is not for populations"),
    ],
)  # fmt: skip
def test_what_one_program_cannot_learn_is_refused_in_one_line(stories, rows, tmp_path, quiet, varied, sections, says):
    with pytest.raises(InputError, match=says) as error:
        jaxprompt.train(config(rows, tmp_path / "run", varied, **sections), backbone=stories, reporter=quiet)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_population_is_refused(stories, rows, tmp_path, quiet):
    train = {"train": {"steps": 0}}
    result = jaxprompt.train(
        config(rows, tmp_path / "run", {"seed": [0, 1]}, **train), backbone=stories, reporter=quiet
    )
    assert result.metrics["members"].keys() == {"seed=0", "seed=1"}
    with pytest.raises(InputError, match=r"holds another experiment \(population is"):
        jaxprompt.train(config(rows, tmp_path / "run", {"seed": [0, 2]}, **train), backbone=stories, reporter=quiet)
    shutil.copy(tmp_path / "run" / "result.json", tmp_path / "run" / "members" / "seed=0" / "prompt.safetensors")
    with pytest.raises(InputError, match=r"seed=0"):
        jaxprompt.train(config(rows, tmp_path / "run", {"seed": [0, 1]}, **train), backbone=stories, reporter=quiet)
