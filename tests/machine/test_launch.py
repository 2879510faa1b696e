"""The files of configs/launch: what they start is what is there, and SLURM's, with a stand-in for srun, starts a run."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxprompt.commands import _parsed
from tests.conftest import STORIES
from tests.processes import environment

LAUNCH = Path(__file__).parents[2] / "configs" / "launch"
# As srun starts a step of two hosts; its own option comes first.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 3
shift
export SLURM_JOB_ID=$$ SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE='1(x2)'
SLURM_PROCID=1 "$@" & other=$!
SLURM_PROCID=0 "$@" && wait $other
"""


@pytest.mark.parametrize("name", ["slurm.sh", "cloud_tpu.sh"])
def test_scripts_are_bash(name):
    assert os.access(LAUNCH / name, os.X_OK)
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)


def test_the_pods_of_kubernetes_start_one_run():
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    (workers,) = job["spec"]["replicatedJobs"]
    pods = workers["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    program, *argv = [*container["command"], *container["args"]]
    args = _parsed([item.replace("$(JOB_COMPLETION_INDEX)", "3") for item in argv])
    assert (program, args.command, args.process_id) == ("jaxprompt", "train", 3)
    assert args.processes == pods["parallelism"] == pods["completions"]
    # Named as JobSet names the first pod, where the first process listens.
    host, port = args.coordinator.split(":")
    assert host == f"{job['metadata']['name']}-{workers['name']}-0-0.{job['metadata']['name']}"
    assert [int(port)] == [open["containerPort"] for open in container["ports"]]
    assert pods["completionMode"] == "Indexed"


@pytest.mark.slow
def test_slurm_starts_a_run_and_fails_with_it(rows, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "model": STORIES,
        "template": "{soft:3} {text} {target}",
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "method": {"init": {"type": "uniform"}},
        "train": {"steps": 2, "batch_size": 4},
        "run_dir": str(tmp_path / "run"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    for name, text in (
        ("srun", SRUN),
        ("jaxprompt", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jaxprompt "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = environment(1) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def submitted(*overrides):
        command = [LAUNCH / "slurm.sh", str(tmp_path / "config.yaml"), *overrides]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=400, check=False)

    done = submitted()
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("step 2/2") == 1  # by one of two
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == 2
    assert submitted("data.train=missing.jsonl").returncode == 2
