"""Checkpoints that a disk or a kill has damaged: the one before is used, and the run ends as if nothing had been."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxprompt
from jaxprompt.reports.terminal import Reporter
from tests.conftest import REVIEWS, STORIES

ROWS = [{"text": text, "target": "good" if label else "so bad"} for text, label in REVIEWS]


def tree(run_dir, steps=6):
    return {
        "model": STORIES,
        "template": "{soft:3} Review: {text} It was {target}",
        "data": {"train": ROWS, "validation": ROWS[:5]},
        "optimizer": {"learning_rate": 0.05},
        "train": {"steps": steps, "batch_size": 5, "eval_every": 2, "log_every": 1},
        "run_dir": str(run_dir),
    }


def empty(path):
    path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def flip(path):
    """One bit in the middle, which in the largest files is an array's."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_record(path):
    """As valid JSON, by what a record may hold."""
    kept = json.loads(path.read_text())
    kept["record"]["members"][0]["evaluations_since_best"] += 1
    path.write_text(json.dumps(kept))


def replace_json(path):
    path.write_text('{"digest": "", "record": {}}')


WAYS = (empty, halve, delete, flip)


@pytest.fixture(scope="module")
def whole(stories, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    jaxprompt.train(tree(run_dir), backbone=stories, reporter=Reporter(quiet=True))
    return run_dir


def timeless(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]


def ends_the_same(whole, run_dir, stories):
    jaxprompt.train(tree(run_dir), backbone=stories, reporter=Reporter(quiet=True))
    for name in ("prompt.safetensors", "result.json"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    assert timeless(run_dir) == timeless(whole)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["4", "6"]


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(whole, copy, stories, caplog):
    flip(copy / "checkpoints" / "6" / "record" / "metadata")
    with caplog.at_level(logging.WARNING, "jaxprompt"):
        ends_the_same(whole, copy, stories)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"checkpoint 6 in {str(copy / 'checkpoints')!r} cannot be used, being damaged (")
    assert said.endswith("): going on from checkpoint 4") and "\n" not in said
    # The one that was damaged has been written once more.
    caplog.clear()
    ends_the_same(whole, copy, stories)
    assert not caplog.records


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew(whole, copy, stories, caplog):
    for step in ("4", "6"):
        shutil.rmtree(copy / "checkpoints" / step / "state")
    with caplog.at_level(logging.WARNING, "jaxprompt"):
        ends_the_same(whole, copy, stories)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("checkpoints 6 and 4 in ") and said.endswith("): no other is left, the run begins anew")


def cases(folder):
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        for way in WAYS:
            yield path, way
    record = Path("record/metadata")
    yield record, replace_record
    yield record, replace_json


@pytest.mark.slow
def test_every_damage_of_the_newest_checkpoint_is_made_good(whole, stories, tmp_path):
    newest = whole / "checkpoints" / "6"
    for number, (path, way) in enumerate(cases(newest)):
        run_dir = tmp_path / str(number)
        shutil.copytree(whole, run_dir)
        way(run_dir / "checkpoints" / "6" / path)
        try:
            ends_the_same(whole, run_dir, stories)
        except BaseException as error:
            raise AssertionError(f"{path} by {way.__name__}") from error


LIMITED = """
import resource, sys
from jaxprompt.commands import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
sys.exit(main(["train", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 2400])
def test_what_cannot_be_written_is_one_line_and_the_run_goes_on_when_it_can(whole, stories, tmp_path, size):
    """The system refuses files of more bytes than this: the config, or the arrays of the next checkpoint."""
    run_dir, path = tmp_path / "run", tmp_path / "config.yaml"
    jaxprompt.train(tree(run_dir, steps=4), backbone=stories, reporter=Reporter(quiet=True))
    path.write_text(jaxprompt.config.dump(tree(run_dir)))
    done = subprocess.run([sys.executable, "-c", LIMITED, path, str(size)], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("jaxprompt: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert [("cannot be written (File too large): free space and" in line) for line in said] == [True]
    assert done.stderr.splitlines()[-1] == said[0]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["2", "4"]
    ends_the_same(whole, run_dir, stories)
