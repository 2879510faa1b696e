"""Several prompts that answer together, against their separate answers put together by hand."""

import json

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt import commands
from jaxprompt.errors import InputError
from jaxprompt.inference.predict import evaluate_run, load_run, predict_run
from jaxprompt.inference.score import score
from jaxprompt.scoring.ensemble import combined
from jaxprompt.scoring.evaluate import Evaluation
from tests.conftest import STORIES

TEXTS = ["a warm and funny film", "dull", "not so good", "great fun", "tired old jokes", "a gem"]


@pytest.fixture(scope="module")
def population(stories, tmp_path_factory):
    """A population of three, on files."""
    from tests.conftest import REVIEWS, Reporter

    folder = tmp_path_factory.mktemp("ensemble")
    for name, rows in (("train", REVIEWS), ("valid", REVIEWS[:7])):
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    tree = {
        "model": STORIES,
        "template": "{soft:2}{text}",
        "objective": {"type": "classifier", "labels": ["bad", "good"]},
        "data": {"train": str(folder / "train.jsonl"), "validation": str(folder / "valid.jsonl")},
        "optimizer": {"learning_rate": 0.3},
        "train": {"steps": 4, "batch_size": 4, "eval_every": 4, "log_every": 4},
        "population": {"seed": [0, 1, 2]},
        "run_dir": str(folder / "run"),
    }
    return jaxprompt.train(tree, backbone=stories, reporter=Reporter(quiet=True)).run_dir


def alone(run_dir, stories):
    """The probabilities of each member, by itself."""
    found = []
    for name in ("seed=0", "seed=1", "seed=2"):
        experiment, prompt = load_run(run_dir / "members" / name, stories)
        examples = experiment.encode([{"text": text} for text in TEXTS], labelled=False)
        found.append(np.asarray(jax.nn.softmax(score(experiment, prompt, examples).outputs["logits"], axis=-1)))
    return np.stack(found)


def test_answers_are_those_of_separate_ones_put_together(population, stories):
    shares = alone(population, stories)
    mean = predict_run(population, TEXTS, stories, ensemble="mean")
    names = np.array(["bad", "good"])
    assert [answer["prediction"] for answer in mean] == names[shares.mean(0).argmax(-1)].tolist()
    np.testing.assert_allclose([answer["probability"] for answer in mean], shares.mean(0).max(-1), atol=1e-6)
    vote = predict_run(population, TEXTS, stories, ensemble="vote")
    votes = (shares.argmax(-1) == 1).mean(0)
    assert [answer["prediction"] for answer in vote] == names[(votes > 0.5).astype(int)].tolist()
    np.testing.assert_allclose([answer["probability"] for answer in vote], np.maximum(votes, 1 - votes), atol=2e-6)
    # Named one by one, a file among them, they are the same.
    members = [population / "members" / name for name in ("seed=0", "seed=1", "seed=2")]
    named = predict_run(members[0], TEXTS, stories, prompts=[members[1], members[2] / "prompt.safetensors"])
    assert named == mean


def test_figures_are_those_of_the_answers(population, stories):
    figures = evaluate_run(population, backbone=stories, ensemble="vote")
    each = [evaluate_run(population / "members" / f"seed={n}", backbone=stories)["accuracy"] for n in range(3)]
    assert figures["ensemble"] == {"how": "vote", "prompts": 3, "accuracy": each}
    rows = [json.loads(line) for line in (population.parent / "valid.jsonl").read_text().splitlines()]
    answers = predict_run(population, [row["text"] for row in rows], stories, ensemble="vote")
    right = [answer["prediction"] == ["bad", "good"][row["label"]] for answer, row in zip(answers, rows, strict=True)]
    assert figures["accuracy"] == pytest.approx(np.mean(right))


def test_a_population_is_used_as_its_best_member(population, stories):
    best = json.loads((population / "result.json").read_text())["best_member"]
    assert predict_run(population, TEXTS, stories) == predict_run(population / "members" / best, TEXTS, stories)


def test_from_the_command_line(population, capsys):
    argv = ["predict", str(population / "members" / "seed=0"), "--text", "a gem", "--ensemble", "vote"]
    assert commands.main([*argv, "--prompt", str(population / "members" / "seed=1"), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"]
    assert answer["prediction"] in ("bad", "good")
    assert commands.main(argv) == 2
    assert "an ensemble of one prompt" in capsys.readouterr().err


def test_equal_votes_are_told_apart_by_probabilities():
    logits = [np.log([[0.9, 0.05, 0.05]]), np.log([[0.2, 0.5, 0.3]])]
    found = combined([Evaluation({"logits": one}, {}) for one in logits], "vote").outputs["logits"]
    np.testing.assert_allclose(np.exp(found), [[0.5, 0.5, 0.0]], atol=1e-6)
    assert found.argmax() == 0
    values = [Evaluation({"value": np.array(value)}, {}) for value in ([1.0, 2.0], [3.0, 5.0])]
    assert combined(values, "mean").outputs["value"].tolist() == [2.0, 3.5]
    with pytest.raises(InputError, match="no majority"):
        combined(values, "vote")


def test_prompts_that_do_not_belong_together_are_refused(population, stories, tmp_path):
    prompt = jaxprompt.load_prompt(population)
    other = jaxprompt.Prompt(prompt.conditioning, prompt.head, {**prompt.info, "labels": ["good", "bad"]})
    path = jaxprompt.save_prompt(other, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors' has another labels than run"):
        predict_run(population, TEXTS, stories, prompts=[path])
    longer = prompt.conditioning.replace(soft=np.tile(prompt.soft, (2, 1)))
    path = jaxprompt.save_prompt(jaxprompt.Prompt(longer, prompt.head, prompt.info), tmp_path / "longer.safetensors")
    with pytest.raises(InputError, match=r"longer\.safetensors' holds .*: leave it out"):
        predict_run(population, TEXTS, stories, prompts=[path])
