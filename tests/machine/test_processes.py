"""Several processes that compute together, and how they end."""

import json
import os
import signal
import time

import numpy as np
import pytest
import yaml

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.machine import processes
from jaxprompt.prompts import load_prompt
from tests.conftest import STORIES
from tests.processes import free_address, jaxprompt_commands, run_processes


@pytest.fixture
def tree(rows, tmp_path):
    """A config, and in its folder the file that it is read from."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "model": STORIES,
        "template": "{soft:3} Review: {text} It was {target}",
        "method": {"init": {"top_k": 100}},
        "data": {
            "train": str(tmp_path / "rows.jsonl"),
            "validation": str(tmp_path / "rows.jsonl"),
            "validation_rows": 5,
        },
        "optimizer": {"learning_rate": 0.05},
        "train": {"steps": 4, "batch_size": 6, "eval_every": 2, "log_every": 2},
        "run_dir": str(tmp_path / "run"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    return tree


def losses(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return np.array([record.get("loss") or record["validation"]["loss"] for record in records])


def test_two_processes_learn_what_one_does_and_the_first_alone_speaks(tree, stories, tmp_path, quiet):
    alone = jaxprompt.train({**tree, "run_dir": str(tmp_path / "alone")}, backbone=stories, reporter=quiet)
    first, second = run_processes(jaxprompt_commands(2, "train", str(tmp_path / "config.yaml"), "--json"))
    assert (first.status, second.status) == (0, 0), (first.err[-2000:], second.err[-2000:])
    together = load_prompt(tmp_path / "run")
    np.testing.assert_allclose(together.soft, alone.prompt.soft, atol=1e-5)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), atol=1e-5)
    assert json.loads(first.out)["loss"] == pytest.approx(alone.metrics["loss"], abs=1e-5)
    assert "step 4/4" in first.err
    assert (second.out, second.err) == ("", "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "prompt.safetensors", "result.json", "checkpoints",
    }  # fmt: skip


def test_what_one_process_cannot_read_ends_the_others_with_its_line(tree, tmp_path):
    commands = jaxprompt_commands(2, "train", str(tmp_path / "config.yaml"))
    commands[1].append("data.train=missing.jsonl")
    first, second = run_processes(commands)
    assert (first.status, second.status) == (2, 2)
    assert second.err.splitlines() == ["jaxprompt: error: missing.jsonl: no such file (check the path)"]
    assert "jaxprompt: error: process 1 of 2 has ended: missing.jsonl: no such file (check the path)\n" in first.err
    assert "Traceback" not in first.err
    # But for the lock of a process that was ended, nothing was written.
    assert [path.name for path in tmp_path.glob("run/*")] in ([], [".lock"])


def wait_for_steps(run_dir):
    metrics, until = run_dir / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_a_signal_to_any_process_ends_all_behind_one_step_with_a_checkpoint(tree, tmp_path, asked):
    def ask(running):
        wait_for_steps(tmp_path / "run")
        for number in asked:
            running[number].terminate()

    more = ("train.steps=1000000", "train.checkpoint_every=1000000", "train.eval_every=1000000")
    commands = jaxprompt_commands(2, "train", str(tmp_path / "config.yaml"), *more)
    first, second = run_processes(commands, meanwhile=ask)
    assert (first.status, second.status) == (143, 143)
    (kept,) = (path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert first.err.splitlines()[-1].startswith(f"jaxprompt: ended by SIGTERM: step {kept} is kept")
    assert second.err == ""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_one_process_ends_the_other_within_the_time_limit(tree, tmp_path, killed):
    seconds = {}

    def kill(running):
        wait_for_steps(tmp_path / "run")
        os.kill(running[killed].pid, signal.SIGKILL)
        seconds["begun"] = time.monotonic()
        running[1 - killed].wait(100)
        seconds["took"] = time.monotonic() - seconds["begun"]

    more = ("train.steps=1000000", "train.checkpoint_every=1000000")
    ended = run_processes(
        jaxprompt_commands(2, "train", str(tmp_path / "config.yaml"), *more, timeout=20), meanwhile=kill
    )
    other = ended[1 - killed]
    assert other.status == 1
    assert seconds["took"] < 20
    # With process 0 goes what the others meet at, too: whichever is noticed first.
    why = (f"jaxprompt: error: process {killed} of 2 has ended without a word",)
    if killed == 0:
        why += ("jaxprompt: error: process 1 has lost process 0 at localhost",)
    assert other.err.splitlines()[-1].startswith(why)
    assert "Traceback" not in other.err
    assert "@ " not in other.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_others_never_come_ends_with_one_line(tree, tmp_path, number):
    commands = jaxprompt_commands(2, "train", str(tmp_path / "config.yaml"), timeout=3)
    (ended,) = run_processes([commands[number]])
    assert ended.status == 2
    assert ended.err.startswith(f"jaxprompt: error: process {number} has waited 3 s at localhost:")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "a:1"}, "go together: give --processes and --process-id too"),
        ({"coordinator": "a", "processes": 2, "process_id": 0}, "--coordinator is 'a': give HOST:PORT"),
        ({"coordinator": "a:1", "processes": 0, "process_id": 0}, "--processes is 0"),
        ({"coordinator": "a:1", "processes": 2, "process_id": 2}, "--process-id is 2: of 2 processes give .* 0 to 1"),
        ({"timeout": 0}, "--timeout is 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(InputError, match=message), processes.together(**given):
        pass


LAUNCHED = {
    "slurm": {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[003-006],x", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    },
    "slurm, two on a host": {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node003", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
        "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    },
    "open mpi": {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    },
}  # fmt: skip
ALONE = {
    "slurm": {**LAUNCHED["slurm"], "SLURM_NTASKS": "1"},
    "open mpi": {**LAUNCHED["open mpi"], "OMPI_COMM_WORLD_SIZE": "1"},
    "a pod of no indexed job": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    "no cluster": {},
}


@pytest.mark.parametrize(
    ("launcher", "place"),
    [
        ("slurm", ("node003:61447", 4, 2, [])),
        ("slurm, two on a host", ("node003:61447", 4, 2, [1])),
        ("open mpi", ("10.96.0.1:62624", 2, 1, [1])),
    ],
)
def test_launchers_say_who_a_process_is(monkeypatch, launcher, place):
    begun = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **_: begun.append(given))
    monkeypatch.setattr(processes._Watch, "begin", lambda self: None)
    monkeypatch.setattr(processes, "meet", lambda where: None)
    monkeypatch.setattr(processes, "_watch", None)
    for name, value in LAUNCHED[launcher].items():
        monkeypatch.setenv(name, value)
    assert processes.may_be_several([])
    with processes.together():
        assert begun == [place]


@pytest.mark.parametrize("launcher", ALONE)
def test_a_lone_process_stays_alone(monkeypatch, launcher):
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **_: pytest.fail("begun"))
    for name, value in ALONE[launcher].items():
        monkeypatch.setenv(name, value)
    with processes.together():
        assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)
    with processes.together(free_address(), 1, 0):
        assert processes.is_first()


class Told:
    """What of JAX's client several processes agree by."""

    def __init__(self):
        self.said = {}

    def key_value_set(self, name, value, allow_overwrite=False):
        if name in self.said and not allow_overwrite:
            raise RuntimeError("ALREADY_EXISTS")
        self.said[name] = value

    def key_value_try_get(self, name):
        if name not in self.said:
            raise RuntimeError("NOT_FOUND")
        return self.said[name]

    def key_value_dir_get(self, name):
        return [(key, value) for key, value in self.said.items() if key.startswith(name)]


def test_the_last_step_is_the_last_that_any_process_has_begun(monkeypatch):
    client, who = Told(), [0]
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "number", lambda: who[0])
    watches = [processes._Watch("host:1", number, 5.0) for number in range(2)]
    for watch in reversed(watches):
        watch._client = client
        processes._handle_abort(watch._before)
    # The second is two steps ahead, and its watch hears that the first one was asked.
    assert [watches[0].asked_before(step, None) for step in (1, 2)] == [None, None]
    who[0] = 1
    assert [watches[1].asked_before(step, None) for step in (1, 2, 3, 4)] == [None] * 4
    watches[1]._tell_step()
    who[0] = 0
    asked = [watches[0].asked_before(step, signal.SIGTERM) for step in (3, 4, 5)]
    who[0] = 1
    assert (asked, watches[1].asked_before(5, None)) == ([None, None, signal.SIGTERM], signal.SIGTERM)
    assert watches[0].agreed and watches[1].agreed
