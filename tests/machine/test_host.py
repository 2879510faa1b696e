import subprocess
import sys

import pytest

from jaxprompt.machine import host

FAULTS = """
import resource, sys
if sys.argv[1] == "command":
    from jaxprompt.commands import process
    process.prepare_process()
import jax
x = jax.numpy.ones(50_000_000)
double = jax.jit(lambda x: 2 * x)
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(double(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def faults(how: str) -> int:
    """The fewest page faults of a compiled function that returns 200 MB, called again and again."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_command_finds_the_memory_that_a_step_freed_without_page_faults():
    # Even huge pages, of 2 MB, would be a hundred.
    assert faults("command") < 20 < 80 < faults("plain")


def test_elsewhere_there_is_nothing_to_ask(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.keep_freed_memory() is False
