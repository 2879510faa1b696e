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


@pytest.mark.parametrize(
    ("modules", "vendor", "given", "chosen"),
    [
        ({"libtpu"}, "0x8086", None, "cpu"),
        ({"libtpu"}, "0x1ae0", None, None),
        ({"libtpu", "jax_plugins"}, "0x8086", None, None),
        (set(), "0x8086", None, None),
        ({"libtpu"}, "0x8086", "tpu", "tpu"),
    ],
)
def test_libtpu_is_not_asked_where_no_tpu_can_be(modules, vendor, given, chosen, monkeypatch, tmp_path):
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:00:01.0" / "vendor").write_text(vendor + "\n")
    has_tpu = host._has_tpu(tmp_path)
    monkeypatch.setattr(host, "_has_tpu", lambda: has_tpu)
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if given is not None:
        monkeypatch.setenv("JAX_PLATFORMS", given)
    host.skip_absent_tpu()
    assert host.os.environ.get("JAX_PLATFORMS") == chosen
