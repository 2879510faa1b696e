"""A regression as a user meets it: learned, scored, answered, refused."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from jaxprompt.commands import main
from tests.conftest import STORIES

CONFIG = f"""
model: {STORIES}
template: "{{soft:2}} {{text}}"
objective: {{type: regression, pool: mean}}
data: {{train: train.jsonl, validation: valid.jsonl, label: warmth}}
optimizer: {{learning_rate: 0.02, schedule: linear}}
train: {{steps: 60, batch_size: 16, eval_every: 30}}
run_dir: run
"""


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def toy(count, seed):
    """Texts of warm and cold words, and the share of the warm ones, which repeats: ranks are tied."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        warm = rng.random(8) < rng.random()
        words = np.where(warm, rng.choice(["sun", "love", "happy"], 8), rng.choice(["ice", "dark", "cold"], 8))
        yield {"text": " ".join(words), "warmth": float(warm.mean())}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("regression")
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        write_rows("train.jsonl", toy(64, 0))
        write_rows("valid.jsonl", toy(24, 1))
        Path("config.yaml").write_text(CONFIG)
        assert main(["train", "config.yaml"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def run(capsys, *argv):
    capsys.readouterr()
    assert main(list(argv)) == 0
    *shown, line = capsys.readouterr().out.splitlines()
    return shown, json.loads(line)


def correlation(xs, ys):
    """Pearson's, written out."""
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    both = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return both / (sum((a - x) ** 2 for a in xs) * sum((b - y) ** 2 for b in ys)) ** 0.5


def ranked(values):
    return [sum(v < w for v in values) + sum(v == w for v in values) / 2 for w in values]


def test_a_learnable_number_is_learned_and_the_figures_are_those_of_the_answers(capsys):
    shown, answers = run(capsys, "predict", "run", "--file", "valid.jsonl", "--json")
    found = [answer["prediction"] for answer in answers["predictions"]]
    rows = [json.loads(line) for line in Path("valid.jsonl").read_text().splitlines()]
    assert shown == [f"{number}\t{row['text']}" for number, row in zip(found, rows, strict=True)]
    wanted = [row["warmth"] for row in rows]
    want = {
        "pearson": correlation(found, wanted),
        "spearman": correlation(ranked(found), ranked(wanted)),
        "loss": sum((a - b) ** 2 for a, b in zip(found, wanted, strict=True)) / len(rows),
        "examples": len(rows),
    }
    # Always answering the mean leaves the variance, and correlates with nothing.
    assert want["pearson"] > 0.9 and want["spearman"] > 0.9
    assert want["loss"] < np.var(wanted) / 2
    _, summary = run(capsys, "evaluate", "run", "--json")
    assert summary == {name: pytest.approx(value, rel=1e-4) for name, value in want.items()}
    result = json.loads(Path("run/result.json").read_text())
    assert {name: result[name] for name in want} == {name: pytest.approx(v, rel=1e-4) for name, v in want.items()}
    assert result["best_step"] > 0


def test_the_figures_of_another_file_are_of_its_rows(capsys):
    rows = [*toy(5, 2)]
    write_rows("other.jsonl", rows)
    _, answers = run(capsys, "predict", "run", "--file", "other.jsonl", "--json")
    error = [a["prediction"] - row["warmth"] for a, row in zip(answers["predictions"], rows, strict=True)]
    _, summary = run(capsys, "evaluate", "run", "--data", "other.jsonl", "--json")
    assert summary["examples"] == 5
    assert summary["loss"] == pytest.approx(sum(e**2 for e in error) / 5, rel=1e-4)


@pytest.mark.parametrize("given", ["warm", "", "NaN", "-Infinity", None, [1], float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("key", ["train", "validation", "--data"])
def test_an_answer_that_is_no_number_is_refused_by_file_and_row(capsys, given, key):
    write_rows("bad.jsonl", [{"text": "sun", "warmth": 1}, {"text": "ice", "warmth": given}])
    train = ["train", "config.yaml", "run_dir=new", f"data.{key}=bad.jsonl"]
    assert main(["evaluate", "run", "--data", "bad.jsonl"] if key == "--data" else train) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jaxprompt: error: bad.jsonl: row 2: 'warmth' is ") and "give a finite number" in last
    assert not Path("new").exists()


def test_numbers_written_as_text_are_numbers(capsys):
    Path("valid.csv").write_text("text,warmth\nsun love,1\nice dark,0.25\n")
    _, summary = run(capsys, "evaluate", "run", "--data", "valid.csv", "--json")
    assert summary["examples"] == 2 and summary["loss"] < 0.25
