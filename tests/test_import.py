"""What importing jaxprompt costs."""

import importlib
import importlib.metadata
import subprocess
import sys

PROGRAM = """
import resource, sys
import jaxprompt
used = resource.getrusage(resource.RUSAGE_SELF)
assert used.ru_utime + used.ru_stime < 2, used
heavy = {"torch", "transformers", "orbax", "pyarrow", "huggingface_hub"} & sys.modules.keys()
assert not heavy, heavy

# The names load when first used; that imports jax and still touches no device.
for name in jaxprompt.__all__:
    getattr(jaxprompt, name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
heavy = {"torch", "transformers", "pyarrow", "huggingface_hub"} & sys.modules.keys()
assert not heavy, heavy
import jax
jax.devices()
assert xla_bridge.backends_are_initialized()
"""


def test_import_is_quick_and_touches_no_device():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_the_command_that_is_installed_is_there():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="jaxprompt")
    assert command.load() is importlib.import_module("jaxprompt.commands").command
