"""Trains a tiny model for long, and watches the memory of the process.

python -m tests.training.soak FOLDER --steps 20000
"""

import argparse
import sys
from pathlib import Path

import jaxprompt
from jaxprompt.machine import host
from jaxprompt.reports.terminal import Reporter
from tests.memory import status_bytes
from tests.training.test_damage import ROWS
from tests.training.test_loop import config


class _Watching(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.seen: dict[int, int] = {}

    def log(self, record: dict, total: int) -> None:
        if "validation" not in record:
            self.seen[record["step"]] = status_bytes("VmRSS")
            print(f"step {record['step']}: {self.seen[record['step']] / 1e6:.1f} MB", file=sys.stderr)


def run(folder: Path, steps: int) -> dict[int, int]:
    """Returns the bytes in memory by step."""
    host.keep_freed_memory()
    train = {"steps": steps, "log_every": steps // 40, "eval_every": 50, "checkpoint_every": 50}
    watching = _Watching()
    jaxprompt.train(config(ROWS, folder / "run", train=train), reporter=watching)
    return watching.seen


def growth(seen: dict[int, int], after: int) -> float:
    """How much larger the process was at its end than at the first look from a step on, as a share."""
    first = seen[min(step for step in seen if step >= after)]
    return seen[max(seen)] / first - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the run goes; a new one")
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    grown = growth(run(args.folder, args.steps), args.steps // 10)
    print(f"from step {args.steps // 10} on, the process grew by {grown:.2%}")
