"""What a run keeps of itself: metrics.jsonl, and the rates in it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from jaxprompt.errors import InputError
from jaxprompt.machine.files import append, sync, whole_file

# How every record begins.
_START = b'{"step": '


def read_records(path: Path) -> list[tuple[int, str]]:
    """The steps and the lines of a metrics.jsonl; none where there is no such file. A last line that a kill cut is left out.

    Raises InputError for a file that no run wrote.
    """
    if not path.exists():
        return []
    records = []
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], 1):
        try:
            step = json.loads(line)["step"]
            if type(step) is not int:
                raise ValueError(step)
            records.append((step, line.decode()))
        except (ValueError, LookupError, TypeError, RecursionError):
            if number > len(lines) and _START[: len(line)] == line[: len(_START)]:
                continue  # Cut, or nothing at all.
            raise InputError(
                f"{str(path)!r} line {number} is no record of a run: move the file away, or name another run_dir"
            ) from None
    return records


class MetricsFile:
    """`metrics.jsonl`: one JSON object per logged step and per evaluation."""

    def __init__(self, path: Path, resume_step: int = 0, judged: int = -1):
        """Begins the file, or goes on with it; lines after `resume_step`, from before a kill, are taken off first.

        Args:
          judged: the step of the last evaluation that counts.
        """
        records = read_records(path) if resume_step else []
        kept = [
            line
            for step, line in records
            if step <= resume_step and (step <= judged or "validation" not in json.loads(line))
        ]
        self.path = path
        with whole_file(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def write(self, record: dict) -> None:
        """Raises InputError when the disk is full, or the folder gone."""
        append(self.path, (json.dumps(record, ensure_ascii=False) + "\n").encode())

    def sync(self) -> None:
        """Puts all of it on the disk: no checkpoint is to be newer than its lines. Errors as those of `write`."""
        sync(self.path)


class Meter:
    """Examples, targets and seconds since the last look."""

    def __init__(self):
        self._start, self._seconds, self._steps, self._examples = time.perf_counter(), 0.0, 0, 0
        self._targets: list[float] = []

    def add(self, examples: int) -> None:
        """Counts one step."""
        self.pause()
        self._steps, self._examples = self._steps + 1, self._examples + examples

    def pause(self) -> None:
        """Counts the time up to now; what comes before `restart` is left out."""
        now = time.perf_counter()
        self._seconds, self._start = self._seconds + now - self._start, now

    def restart(self) -> None:
        """Leaves out the time since the last step or pause (an evaluation)."""
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._seconds

    def scored(self, targets: Sequence[float]) -> None:
        """Adds what each of the last steps scored, the newest last; of steps from before this meter, nothing counts."""
        self._targets += targets

    def read(self) -> dict:
        """The rates since the last read, and a new start; all 0 when no step was counted."""
        targets = sum(self._targets[len(self._targets) - self._steps :])
        seconds = max(self._seconds + time.perf_counter() - self._start, 1e-9)
        rates = {
            "examples_per_second": self._examples / seconds,
            "target_tokens_per_second": float(targets) / seconds,
            "step_seconds": seconds / self._steps if self._steps else 0.0,
        }
        self.__init__()
        return rates
