"""The environment of the whole suite, set before anything imports jax."""

import importlib.metadata
import os
import tempfile

# Tests that need several devices start subprocesses of their own.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the suite's time goes into compiling programs that run once.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    # XLA's older emitters, gone since, compile them in a third of the time of its newer ones.
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", FAST_TO_COMPILE)
else:
    # Several processes share an accelerator, of which the first would take most of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Equal programs of different tests are compiled once. The folder goes with the test run.
_cache = tempfile.TemporaryDirectory(prefix="jaxprompt-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
