"""What a command asks of its process, and owes to whoever started it."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from jaxprompt.errors import InputError
from jaxprompt.machine import host
from jaxprompt.machine.processes import may_be_several

# What libraries read when they are imported: only errors, of those written in C++ too.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}
# What Python reads that clears away after processes that read data.
QUIET |= {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
# The same where what JAX says at last, its stack, is said in one line instead.
SILENT = {"TF_CPP_MIN_LOG_LEVEL": "4", "GRPC_VERBOSITY": "NONE"}


def prepare_process(argv: Sequence[str] = (), verbose: bool = False) -> None:
    """Keeps memory from step to step, lets the next command load what this one compiles, and libraries be quiet.

    JAX may have been told of a folder for compiled programs already.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed; a file opened next would be taken for it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (stays open)
    if not verbose and may_be_several(argv):
        for name, value in SILENT.items():
            if os.environ.get(name) in (None, QUIET[name]):  # which a process that started this one may have set
                os.environ[name] = value
    _listen(verbose)
    # Before JAX: the threads that it starts would allocate from heaps of their own, which keep nothing.
    host.keep_freed_memory()
    host.skip_absent_tpu()
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches, "jaxprompt", "compiled")))
        # Bytes; what was not used for longest goes first.
        jax.config.update("jax_compilation_cache_max_size", 1 << 30)


class _Lines(logging.Handler):
    """One line on standard error, wherever that is by now."""

    def emit(self, record: logging.LogRecord) -> None:
        name = record.name.partition(".")[0]
        tell(f"{name}: {record.levelname.lower()}: {record.getMessage()}")


def _listen(verbose: bool) -> None:
    """Shows jaxprompt's own warnings, and with `verbose` its notes and what libraries say."""
    ours, root = logging.getLogger("jaxprompt"), logging.getLogger()
    if not any(isinstance(handler, _Lines) for handler in ours.handlers):
        ours.addHandler(_Lines())
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    if verbose:
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    # What goes wrong in a library's thread, as where a disk is full, is raised in this one too.
    threading.excepthook = lambda args: None
    sys.unraisablehook = _all_but_echoes
    if not root.handlers:  # else Python itself prints what no one handles
        root.addHandler(logging.NullHandler())


def _all_but_echoes(unraisable) -> None:
    # TensorStore calls back into an event loop that has ended with the first error.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first Ctrl-C ends what is inside, the second waits for that; the third ends the process at once.

    What a run has written by then is whole.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = 0

    def press(*_) -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            raise KeyboardInterrupt
        if pressed > 2:
            os._exit(130)

    before = signal.signal(signal.SIGINT, press)
    yield
    signal.signal(signal.SIGINT, before)  # not after an interruption: what follows is the end


def among_others(args: argparse.Namespace) -> AbstractContextManager:
    """What is done inside is done by all processes of a cluster, of a command that takes `arguments.add_processes`."""
    if not hasattr(args, "coordinator"):
        return contextlib.nullcontext()
    from jaxprompt.machine.processes import together

    return together(args.coordinator, args.processes, args.process_id, args.timeout)


def is_heard() -> bool:
    """Whether this is the process that says what several of them come to."""
    from jaxprompt.machine.processes import is_first

    return is_first()


def put(text: str) -> None:
    """Prints to standard output. Raises InputError when that is full, BrokenPipeError when no one reads it any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _abandon(sys.stdout)
        raise
    except OSError as error:
        _abandon(sys.stdout)
        raise InputError(
            f"standard output cannot be written ({error.strerror}): free space, or write elsewhere"
        ) from None


def tell(text: str) -> None:
    """Prints to standard error, if anyone reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream) -> None:
    """Lets the interpreter's last flush of a stream that fails go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
