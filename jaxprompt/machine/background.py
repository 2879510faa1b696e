"""Work beside the main thread: weights are read and programs compiled while rows are tokenised."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn, Self

from jaxprompt.machine.processes import count

_NAME = "jaxprompt background"


def leave(status: int) -> NoReturn:
    """Ends the process, without waiting for what is being compiled for no one."""
    # One of several that ends before the others would wait for them, too.
    if count() > 1 or any(thread.name == _NAME for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


class Background:
    """Threads of a `with` block. On leaving it, work that has not begun is dropped and `stopped` asks the rest to end.

    Nothing waits for the threads on leaving, so that an error is told at once. A process does wait for them before it
    ends, since XLA aborts one that ends while it compiles, unless it `leave`s.
    """

    def __init__(self):
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()

    def stopped(self) -> bool:
        """Whether no one waits for the work any more: what takes long asks it now and then."""
        return self._stop.is_set()

    def begin(self, *work: Callable[[], Any]) -> list[Future]:
        """Does one piece of work after the other in a thread of their own; what one raises, its future raises."""
        futures = [Future() for _ in work]

        def run():
            for future, piece in zip(futures, work, strict=True):
                if self.stopped():
                    future.cancel()
                    continue
                try:
                    future.set_result(piece())
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=run, name=_NAME).start()
        return futures


class Idle(Background):
    """Does none of the work: of a backbone that is loaded with it there are shapes alone, for good."""

    def begin(self, *work: Callable[[], Any]) -> list[Future]:
        """Returns futures that nothing fills."""
        return [Future() for _ in work]
