"""Signals end a run with a checkpoint, from which it goes on as if it had not been ended."""

import signal
import subprocess
import sys

import pytest

import jaxprompt
from jaxprompt.machine.signals import Interrupted
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training import alone
from tests.training.test_damage import ROWS, timeless
from tests.training.test_loop import config, records


def tree(run_dir, **sections):
    train = {"steps": 6, "log_every": 4, "eval_every": 4, "checkpoint_every": 3}
    return config(ROWS, run_dir, train=train, **sections)


@pytest.fixture(scope="module")
def whole(stories, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    return jaxprompt.train(tree(run_dir), backbone=stories, reporter=Reporter(quiet=True)).run_dir


@pytest.fixture
def interruptible():
    """A shell lets what it starts in the background ignore SIGINT, as a run then does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(monkeypatch, maker, call, number):
    """Lets a signal come while one of `alone`'s makers' steps is called."""
    made = getattr(alone, maker)

    def make(*args):
        step, calls = made(*args), []

        def counted(*args):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return step(*args)

        counted.ahead = step.ahead
        return counted

    monkeypatch.setattr(alone, maker, make)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("maker", "call", "number", "kept"),
    [
        ("make_train_step", 2, signal.SIGTERM, 2),  # between two records, whose mean is of steps of both processes
        pytest.param("make_train_step", 4, signal.SIGINT, 4, marks=pytest.mark.slow),  # its evaluation is still to come
        ("make_eval_step", 2, signal.SIGTERM, 4),
        pytest.param("make_eval_step", 3, signal.SIGTERM, 6, marks=pytest.mark.slow),  # the last one
    ],
)
def test_a_run_that_is_ended_goes_on_to_the_same_end(
    whole, stories, tmp_path, quiet, monkeypatch, maker, call, number, kept
):
    run_dir = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match=f"step {kept} is kept") as found:
        signalled(patched, maker, call, number)
        jaxprompt.train(tree(run_dir), backbone=stories, reporter=quiet)
    assert (found.value.signal, signal.getsignal(number)) == (number, before)
    assert (run_dir / "checkpoints" / str(kept)).is_dir()
    jaxprompt.train(tree(run_dir), backbone=stories, reporter=quiet)
    for name in ("prompt.safetensors", "result.json"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    assert timeless(run_dir) == timeless(whole)


def test_a_run_that_has_learned_nothing_keeps_nothing(stories, tmp_path, quiet, monkeypatch):
    signalled(monkeypatch, "make_eval_step", 1, signal.SIGTERM)
    with pytest.raises(Interrupted, match="nothing was learned yet"):
        jaxprompt.train(tree(tmp_path / "run"), backbone=stories, reporter=quiet)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_command_ends_with_the_status_of_its_signal(stories, tmp_path, number, status):
    path = tmp_path / "config.yaml"
    many = tree(tmp_path / "run")
    many["train"] |= {"steps": 100_000, "log_every": 1, "eval_every": 90_000, "checkpoint_every": 90_000}
    path.write_text(jaxprompt.config.dump(many))
    command = [sys.executable, "-m", "jaxprompt", "train", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 3/"):
                break
        process.send_signal(number)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == status, last
    assert last.startswith(f"jaxprompt: ended by {number.name}: step ") and str(tmp_path / "run") in last
    (kept,) = (path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert int(kept) >= 3 and f"step {kept} is kept" in last
    assert records(tmp_path / "run")[-1]["step"] <= int(kept)
