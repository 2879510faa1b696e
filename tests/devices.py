"""Runs Python code on several simulated devices, which needs a process of its own."""

import os
import subprocess
import sys

from tests import FAST_TO_COMPILE

# Each simulated device holds a thread of XLA's pool while it waits for the others in a collective, and one device can
# wait in several. The pool has as many threads as the machine has cores: on two of them, all can be taken by devices
# that wait for one that has no thread left, until XLA gives up after 40 seconds. NPROC is how many it makes.
_EIGHT_DEVICES = {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {FAST_TO_COMPILE}",
    "NPROC": "64",
    "JAX_PLATFORMS": "cpu",
}


def run_on_eight_devices(code: str, *arguments: str) -> str:
    """Runs `code` with `sys.argv[1:] = arguments` on eight CPU devices and returns what it printed."""
    environment = {**os.environ, **_EIGHT_DEVICES, "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
