"""What a run goes on from: the same data, and files that a kill may have cut."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.scoring.evaluate import Evaluation
from jaxprompt.weights.tokenizer import read_tokenizer
from tests.conftest import STORIES

LABELS = np.array([0, 1, 1, 0])


def evaluations(count):
    """Each better than the one before."""
    for size in range(1, count + 1):
        yield Evaluation({"logits": size * np.stack([-LABELS, LABELS], -1).astype(np.float32)}, {"label": LABELS})


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def here(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("train.jsonl", rows)
    write_rows("valid.jsonl", rows[:4])
    return tmp_path


def tree(**changes):
    return {
        "data": {"train": "train.jsonl", "validation": "valid.jsonl"},
        "run_dir": "run",
        "train": {"steps": 2, "log_every": 1},
        **changes,
    }


def last_token(rows):
    rows[-1]["text"] += "s"


def last_label(rows):
    rows[-1]["label"] = 1 - rows[-1]["label"]


def one_row_less(rows):
    rows.pop()


@pytest.mark.parametrize("change", [last_token, last_label, one_row_less])
@pytest.mark.parametrize(("name", "called"), [("train.jsonl", "training set"), ("valid.jsonl", "validation set")])
def test_other_rows_are_refused(scripted, here, change, name, called):
    scripted(tree(), evaluations(3))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
    change(rows)
    write_rows(name, rows)
    says = rf"^run folder 'run' was made with another {called} \(.*\): put that back, or name another run_dir$"
    with pytest.raises(InputError, match=says):
        scripted(tree(), [])
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_renamed_labels_are_refused(scripted, here, rows):
    """Though their words are the same."""

    def write(*names):
        named = [{**row, "label": names[row["label"]]} for row in rows]
        write_rows("train.jsonl", named)
        write_rows("valid.jsonl", named[:4])

    write("bad", "very_good")
    scripted(tree(), evaluations(3))
    write("bad", "very good")
    with pytest.raises(InputError, match=r"^run folder 'run' was made with another set of labels"):
        scripted(tree(), [])


def test_another_tokenizer_is_refused(scripted, here, stories):
    """Though it gives every row the same tokens: two that are in none of them have changed places."""
    scripted(tree(), evaluations(3))
    shutil.copytree(STORIES, "other")
    path = Path("other/tokenizer.json")
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = (token for token in vocab if token in "[]")
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(tokenizer))
    other = dataclasses.replace(stories, read_tokenizer=lambda: read_tokenizer(Path("other")))
    with pytest.raises(InputError, match=r"^run folder 'run' was made with another tokenizer"):
        scripted(tree(), [], other)


@pytest.mark.parametrize("how", ["./train.jsonl", "../{here}/train.jsonl", "{absolute}/train.jsonl", "link.jsonl"])
def test_the_same_file_by_another_name_goes_on(scripted, here, how):
    first = scripted(tree(), evaluations(3))
    Path("link.jsonl").symlink_to("train.jsonl")
    data = {"train": how.format(here=here.name, absolute=here), "validation": "./valid.jsonl"}
    assert scripted(tree(data=data), []).metrics == first.metrics
    shutil.copy("train.jsonl", "copy.jsonl")
    with pytest.raises(InputError, match=r"holds another experiment \(data\.train is '.*' there, 'copy\.jsonl' here\)"):
        scripted(tree(data=data | {"train": "copy.jsonl"}), [])


@pytest.mark.parametrize("cut", [1, 20, None])
def test_files_that_a_kill_cut_in_a_line_do_not_stop_a_run(scripted, here, cut):
    """`cut` bytes are left of the last line of metrics.jsonl and of result.json; None: all but the line's end."""
    settings = tree(train={"steps": 4, "log_every": 1})
    whole = scripted(settings, evaluations(5))
    shutil.copytree("run", "whole")
    metrics, result = Path("run/metrics.jsonl"), Path("run/result.json")

    def cut_result():
        result.write_bytes(result.read_bytes().rstrip(b"\n")[:cut])

    # The state of step 3, and lines of step 4, the last of which was being written.
    shutil.rmtree("run/checkpoints/4")
    *lines, last = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines) + last.rstrip(b"\n")[:cut])
    cut_result()
    assert scripted(settings, list(evaluations(5))[4:]).metrics == whole.metrics

    def timeless(folder):
        records = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in record.items() if "second" not in key} for record in records]

    assert timeless("run") == timeless("whole")
    assert result.read_bytes() == Path("whole/result.json").read_bytes()
    # All was done but to say so: the best prompt is scored once more, unless what was said is whole.
    cut_result()
    best = list(evaluations(5))[whole.metrics["best_step"]]
    assert scripted(settings, [] if cut is None else [best]).metrics == whole.metrics
    assert result.read_bytes() == Path("whole/result.json").read_bytes()
