"""What a command does to its process, and when no one listens, or someone interrupts."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprompt.commands import evaluate, main
from jaxprompt.commands.process import put
from jaxprompt.errors import InputError
from jaxprompt.reports.terminal import Reporter

# A command that says so when it has begun, and whose end takes long.
PROGRAM = """
import logging, sys, time, warnings
from jaxprompt.commands import evaluate, main

def run(args):
    logging.getLogger("jaxprompt").warning("ours")
    logging.getLogger("jaxprompt").info("our note")
    logging.getLogger("absl").warning("of a library")
    warnings.warn("of another")
    try:
        print("begun", flush=True)
        time.sleep(60 if args.run_dir == "sleep" else 0)
    finally:
        time.sleep(60 if args.run_dir == "sleep" else 0)
    return {"loss": 1.0}

evaluate.run = run
sys.exit(main(["evaluate", *sys.argv[1:]]))
"""


def started(*args):
    command = [sys.executable, "-c", PROGRAM, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def closed_pipe():
    """A text stream that no one reads."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    yield stream
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.fixture
def scores(monkeypatch):
    """`jaxprompt evaluate RUN` without a run."""
    monkeypatch.setattr(evaluate, "run", lambda args: {"loss": 1.0})


def test_output_that_no_one_reads_ends_a_command_quietly(scores, closed_pipe, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert main(["evaluate", "run"]) == 1
    assert capsys.readouterr().err == ""
    closed_pipe.flush()  # as the interpreter does at its end


def test_output_that_is_full_is_one_line(scores, monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["evaluate", "run"]) == 2
    assert capsys.readouterr().err == (
        "jaxprompt: error: standard output cannot be written (No space left on device): free space, or write elsewhere\n"
    )
    monkeypatch.undo()
    with pytest.raises(InputError, match="cannot be written"), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        put("text")


def test_closed_streams_are_no_streams(scores, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["evaluate", "run"]) == 0
    assert main(["evaluate"]) == 2


def test_a_run_goes_on_when_no_one_looks(closed_pipe, monkeypatch):
    monkeypatch.setattr(sys, "stderr", closed_pipe)
    reporter = Reporter()
    for step in (1, 2):
        reporter.say(f"step {step}")
    reporter.log({"step": 2, "validation": {"loss": 1.0}}, 2)


def test_three_interruptions_are_one_line():
    process = started("sleep")
    assert process.stdout.readline() == "begun\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            continue
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err and err.splitlines() == ["jaxprompt: warning: ours"]


def test_one_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(args):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(evaluate, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["evaluate", "run"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.startswith("jaxprompt: interrupted; the same command resumes")


def test_what_libraries_say_is_heard_only_when_asked_for():
    quiet, verbose = (started("run", *more) for more in ((), ("-v",)))
    out, err = quiet.communicate(timeout=60)
    assert (out, err, quiet.returncode) == ("begun\nloss 1.0000\n", "jaxprompt: warning: ours\n", 0)
    _, err = verbose.communicate(timeout=60)
    assert {"jaxprompt: info: our note", "of a library"} <= set(err.splitlines()) and "of another" in err
