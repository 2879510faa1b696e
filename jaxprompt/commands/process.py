"""What a command asks of its process before it starts."""

import os
from pathlib import Path

from jaxprompt.machine import host


def prepare_process() -> None:
    """Keeps memory from step to step, and lets the next command load what this one compiles.

    JAX may have been told of a folder for that already.
    """
    # Before JAX: the threads that it starts would allocate from heaps of their own, which keep nothing.
    host.keep_freed_memory()
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches, "jaxprompt", "compiled")))
        # Bytes; what was not used for longest goes first.
        jax.config.update("jax_compilation_cache_max_size", 1 << 30)
