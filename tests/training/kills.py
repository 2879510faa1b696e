"""Kills a run again and again, and sees whether anything was lost.

    python -m tests.training.kills FOLDER --kills 200 --steps 3000 --seed 1

Each kill (SIGKILL, one in five SIGTERM) comes at a random instant of a process of its own: while it starts, trains, evaluates, saves
or writes its end. What the last process leaves is compared, bit for bit, with what one process left.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jaxprompt
from tests.training.test_damage import ROWS, timeless
from tests.training.test_loop import config

# Seconds after which a process that has begun to train, and one that starts, is killed, at most.
TRAINING, STARTING = 2.0, 6.0


def write_config(folder: Path, name: str, steps: int) -> Path:
    """Writes the config of a run that evaluates, saves and logs out of step with each other."""
    train = {"steps": steps, "log_every": 7, "eval_every": 20, "checkpoint_every": 9}
    path = folder / f"{name}.yaml"
    path.write_text(jaxprompt.config.dump(config(ROWS, folder / name, train=train)))
    return path


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxprompt", "train", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def kill_once(path: Path, draw: random.Random) -> int:
    """Starts the run and kills it; returns its exit status, 0 if it was at its end before."""
    with start(path) as process:
        if draw.random() < 0.8:
            for line in process.stderr:
                if line.startswith("step "):
                    break
            time.sleep(draw.uniform(0, TRAINING))
        else:
            time.sleep(draw.uniform(0, STARTING))
        process.send_signal(signal.SIGTERM if draw.random() < 0.2 else signal.SIGKILL)
        said = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM), said
    return process.returncode


def run(folder: Path, kills: int, seed: int, steps: int) -> int:
    """Returns how many kills met a run that was under way. Raises AssertionError where the two runs differ."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, met = random.Random(seed), 0
    for name in ("whole", "killed"):
        path = write_config(folder, name, steps)
        for number in range(kills if name == "killed" else 0):
            status = kill_once(path, draw)
            met += status != 0
            print(f"kill {number + 1}: status {status}", file=sys.stderr)
        with start(path) as process:
            said = process.stderr.read()
        assert process.returncode == 0, said
    for name in ("prompt.safetensors", "result.json"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    assert timeless(folder / "killed") == timeless(folder / "whole")
    left = [path.name for path in (folder / "killed").rglob(".*")]
    assert all(name == ".lock" for name in left), left
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the runs go; a new one")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(
        f"{run(args.folder, args.kills, args.seed, args.steps)} of {args.kills} kills met the run, which lost nothing"
    )
