import subprocess
import sys

import pytest

from jaxprompt import cli, host

FAULTS = """
import resource, sys
import numpy as np
from jaxprompt.host import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no mallopt")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(200_000_000, np.int8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(how: str) -> int:
    """Page faults of touching 200 MB for the third time."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_there_without_page_faults():
    # Even huge pages, of 2 MB, would be a hundred.
    assert faults("keep") < 20 < 80 < faults("not")


@pytest.mark.parametrize(("backend", "asked"), [("cpu", True), ("gpu", False)])
def test_commands_ask_for_it_on_a_cpu(monkeypatch, tmp_path, backend, asked):
    calls = []
    monkeypatch.setattr(host, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    assert cli.main(["predict", str(tmp_path / "none"), "--text", "good"]) == 2
    assert bool(calls) == asked


def test_elsewhere_there_is_nothing_to_ask(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.keep_freed_memory() is False
