"""What a process asks of the machine that it runs on."""

import ctypes
import importlib.util
import math
import os
import sys
from pathlib import Path

# As in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that a step frees, for the next step.

    A step on a CPU allocates hundreds of MB and frees them. Given back to the operating system each time, they return
    page by page, which takes 4 to 10 % of a step. The price is that the process stays as large as it ever was, which
    can be a few times a step's need: before version 2.38 glibc does not always find the aligned block that it was just
    given back. It is for good, for the whole process, and has no effect on threads that run already, hence on those of
    a JAX that has looked for its devices.

    Returns:
      Whether it could: with glibc only, hence on Linux.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # All memory from the heap, the heap never trimmed, and one heap for all threads (the others' are too small).
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_ARENA_MAX, 1)])


def skip_absent_tpu() -> None:
    """Keeps JAX from asking libtpu for a TPU that is not there, which takes half a second and is loud.

    Libtpu is installed to compile for TPUs, too. To be called before JAX is imported; JAX_PLATFORMS, if set, is left
    alone, and so is a JAX that can use other accelerators.
    """
    installed = importlib.util.find_spec("libtpu") is not None
    others = importlib.util.find_spec("jax_plugins") is not None
    if installed and not others and "JAX_PLATFORMS" not in os.environ and not _has_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def _has_tpu(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether there may be one: a PCI device of Google's."""
    vendors = (path.read_text().strip() for path in pci.glob("*/vendor"))
    return any(vendor == "0x1ae0" for vendor in vendors)


def free_memory() -> float:
    """Bytes of memory that are not in use; infinity where the system does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(found[0]) * 1024 if found else math.inf
