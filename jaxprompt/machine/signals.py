"""SIGINT and SIGTERM as a wish that a run ends and keeps what it has done."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Self

from jaxprompt.machine.processes import asked_before, count, watched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended a run.

    Attributes:
      signal: its number.
    """

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.signal = number

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name


class Signals:
    """Listens within a `with` block. The first signal raises `Interrupted`, at once or, where that would lose work, later.

    A second one ends the process at once, with status 128 + its number. Outside of the main thread, where Python handles no
    signals, and of those that the process was told to ignore, nothing is changed.

    Attributes:
      asked: the number of the first signal; None: there was none.
    """

    def __init__(self):
        self.asked: int | None = None
        self._later = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._come)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _come(self, number: int, frame) -> None:
        if self.asked is not None:
            os._exit(128 + number)
        self.asked = number
        if not self._later:
            self.check()

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.asked is not None:
            raise Interrupted(self.asked)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within it a signal raises nothing: `check` does."""
        with self._at(True):
            yield

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, inside of `later`, a signal raises at once, one that has come too; of one of several processes it does not."""
        several = count() > 1
        with self._at(several):
            if not several:
                self.check()
            yield

    @property
    def ends(self) -> bool:
        """Whether a lone process ends behind the step that it is in."""
        return self.asked is not None and count() == 1

    def agreed(self, number: int) -> bool:
        """Whether several processes end before this step, since one of them was asked to. Raises Interrupted in those that cannot agree."""
        if count() > 1 and not watched():
            self.check()
        signal = asked_before(number, self.asked)
        self.asked = self.asked if signal is None else signal
        return signal is not None

    @contextlib.contextmanager
    def _at(self, later: bool) -> Iterator[None]:
        before, self._later = self._later, later
        try:
            yield
        finally:
            self._later = before
