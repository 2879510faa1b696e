"""One side of a comparison in a process of its own, told what to do by JSON lines; its answers are JSON lines."""

import contextlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = ("out of memory", "RESOURCE_EXHAUSTED", "Out of memory", "can't allocate memory")


class WorkerError(Exception):
    """A worker failed; `memory` says whether for lack of it."""

    def __init__(self, message: str):
        super().__init__(message)
        self.memory = any(text in message for text in OUT_OF_MEMORY)


class Worker:
    """The driver's end: a running script of this folder."""

    def __init__(self, script: str, folder: Path, env: dict[str, str]):
        command = [sys.executable, str(Path(__file__).with_name(script)), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
        )
        self._script = script

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __call__(self, do: str, limit: float | None = None, **arguments: Any) -> dict:
        """Has the worker do something; returns its answer, raises WorkerError.

        Args:
          limit: seconds, after which the worker is killed.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"{self._script} ended") from None
        # An answer is one line, written whole.
        if limit is not None and not select.select([self._process.stdout], [], [], limit)[0]:
            self._process.kill()
            raise WorkerError(f"{self._script}: {do} took longer than {limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            # Linux kills a process that wants more memory than there is.
            raise WorkerError(f"{self._script} ended with {code}" + (": out of memory?" if code == -9 else ""))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._script}: {answer['error']}")
        return answer


def serve(side: Any) -> None:
    """The worker's end: calls the methods of `side` that standard input names, until it ends."""
    # What libraries print goes to standard error; the pipe is for answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        arguments = json.loads(line)
        method: Callable = getattr(side, arguments.pop("do"))
        try:
            answer = method(**arguments) or {}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
