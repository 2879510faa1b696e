"""Work beside the main thread: weights are read and programs compiled while rows are tokenised."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self


class Background:
    """Threads of a `with` block. On leaving it, work that has not begun is dropped and `stopped` asks the rest to end.

    Nothing waits for the threads on leaving, so that an error is told at once. The process does wait for them before it
    ends, as it did when all was done in the main thread: XLA aborts one that ends while it compiles.
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

        threading.Thread(target=run).start()
        return futures
