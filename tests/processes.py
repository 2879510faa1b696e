"""Runs a program in several real processes of this machine, each with simulated devices, that compute together over gloo."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import FAST_TO_COMPILE
from tests.conftest import REVIEWS


@dataclass(frozen=True)
class Ended:
    """What a process left: its exit status, and what it printed."""

    status: int
    out: str
    err: str


def free_address() -> str:
    """Where nothing listens."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many simulated devices; NPROC as in tests/devices.py."""
    flags = f"--xla_force_host_platform_device_count={devices} {FAST_TO_COMPILE}"
    more = {"XLA_FLAGS": flags, "NPROC": "16", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(filter(None, sys.path))}
    return {**os.environ, **more}


def run_processes(
    commands: Sequence[Sequence[str]],
    devices: int = 1,
    meanwhile: Callable[[list[subprocess.Popen]], None] = lambda processes: None,
    variables: Sequence[dict[str, str]] | None = None,
) -> list[Ended]:
    """Runs Python with each of some arguments at once, and waits for all.

    Args:
      devices: simulated, of each process.
      meanwhile: what is done when they are begun.
      variables: of the environment, of each.
    """
    pipe = subprocess.PIPE
    variables = variables or [{}] * len(commands)
    processes = [
        subprocess.Popen(
            [sys.executable, *command], env=environment(devices) | more, stdout=pipe, stderr=pipe, text=True
        )
        for command, more in zip(commands, variables, strict=True)
    ]
    try:
        meanwhile(processes)
        until, ended = time.monotonic() + 500, []
        for process in processes:
            out, err = process.communicate(timeout=max(until - time.monotonic(), 1))
            # What gloo says of itself when it begins is no one's to turn off.
            out = "".join(line for line in out.splitlines(True) if not line.startswith("[Gloo]"))
            ended.append(Ended(process.returncode, out, err))
        return ended
    finally:
        for process in processes:
            process.kill()


def jaxprompt_commands(count: int, *arguments: str, timeout: float = 120) -> list[list[str]]:
    """The arguments of Python for one `jaxprompt` command in so many processes."""
    given = ["-m", "jaxprompt", *arguments]
    if count == 1:
        return [given]
    more = ["--coordinator", free_address(), "--processes", str(count), "--timeout", str(timeout)]
    return [[*given, *more, "--process-id", str(number)] for number in range(count)]


def run_on_reviews(
    code: str, folder: Path, model: Path, mesh: dict[str, int], count: int, devices: int, seconds: int
) -> Path:
    """Runs code in so many processes on a folder with the reviews in rows.jsonl; all have to succeed. Returns the folder.

    `sys.argv` is the folder, the model, the mesh as JSON, and, if there are several processes, who each is.

    Args:
      seconds: the time limit of what they do together.
    """
    folder.mkdir(exist_ok=True)
    rows = [{"text": text, "label": label, "target": "good" if label else "so bad"} for text, label in REVIEWS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["-c", code, str(folder), str(model), json.dumps(mesh)]
    address = free_address()
    places = [[address, str(count), str(number), str(seconds)] for number in range(count)] if count > 1 else [[]]
    for ended in run_processes([[*arguments, *place] for place in places], devices=devices):
        assert ended.status == 0, ended.err[-3000:]
    return folder
