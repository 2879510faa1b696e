"""Work beside the main thread, and a process that ends without it."""

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from jaxprompt.machine.background import Background

LEAVES = """
import sys, time
from jaxprompt.machine.background import Background, leave
with Background() as background:
    background.begin(lambda: time.sleep({seconds}))
print("said", end="")
leave(2)
"""


@pytest.mark.parametrize("seconds", [0, 600])
def test_a_process_leaves_with_its_status_and_what_it_said(seconds):
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LEAVES.format(seconds=seconds)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "said", "")
    assert time.monotonic() - begun < 300


def test_what_has_not_begun_is_dropped_when_no_one_waits_any_more():
    begun, goes_on, seen = threading.Event(), threading.Event(), []
    with Background() as background:
        first, second = background.begin(lambda: begun.set() or goes_on.wait(60), lambda: seen.append("second"))
        assert begun.wait(60)
        assert not background.stopped()
    assert background.stopped()
    goes_on.set()
    assert first.result(60)
    with pytest.raises(CancelledError):
        second.result(60)
    assert not seen


def test_what_work_raises_its_future_raises():
    with Background() as background:
        bad, good = background.begin(lambda: 1 / 0, lambda: 3)
        assert good.result(60) == 3
    with pytest.raises(ZeroDivisionError):
        bad.result(60)
