"""Several processes that run one program, each with devices of its own: who they are, and how one ends with the others.

All of them do the same and hold the same decisions; the first alone writes files and reports. JAX's coordination service,
which the first one holds, is how they find and hear of one another. Importing this touches no device.
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jaxprompt.errors import InputError

# Seconds that processes wait for one another, unless told otherwise.
TIMEOUT = 300.0
# Seconds between two looks at what the others say, and after which one that has said nothing is taken for dead.
_LOOKS, _SILENT = 0.5, 60.0
_ENDED, _ALIVE, _ASKED, _BEGUN = "jaxprompt/ended", "jaxprompt/alive/", "jaxprompt/asked", "jaxprompt/begun/"
# Variables of the launchers that say how many of its processes are on this host.
_ON_HOST = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")
# What launchers give to each of several processes.
_LAUNCHED = ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES")

_meetings = itertools.count()


def _state() -> Any:
    from jax._src import distributed  # The public interface has neither the coordination service nor its time limits.

    return distributed.global_state


def count() -> int:
    """How many processes run this program together; no device is looked for."""
    return _state().num_processes if _state().client is not None else 1


def number() -> int:
    """Which of them this is, from 0."""
    if _watch is not None:
        return _watch.number  # to the end, when it is alone again
    return _state().process_id if _state().client is not None else 0


def is_first() -> bool:
    """Whether this is the process that writes files and reports."""
    return number() == 0


def watched() -> bool:
    """Whether this is one of several that are `together`, not by `jax.distributed` alone: the others hear what becomes of it."""
    return _watch is not None


def may_be_several(argv: Sequence[str]) -> bool:
    """Whether a process with these arguments may be one of several, as far as can be told before JAX is imported."""
    by_hand = any(item.partition("=")[0] == "--coordinator" for item in argv)
    return by_hand or any(name in os.environ for name in _LAUNCHED)


def meet(where: str) -> None:
    """Waits until all processes are here; what one has written before, the others find behind it.

    Args:
      where: a few words for the error, the same in all processes.

    Raises:
      InputError: one does not come within the time limit.
    """
    if count() == 1:
        return
    limit = TIMEOUT if _watch is None else _watch.timeout
    try:
        _state().client.wait_at_barrier(f"jaxprompt/{where}/{next(_meetings)}", int(1000 * limit))
    except RuntimeError:
        raise InputError(
            f"process {number()} waited {limit:g} s at {where} for the others: see what they say, or raise --timeout"
        ) from None


def asked_before(step: int, signal: int | None) -> int | None:
    """Where one of several processes was asked to end, they agree on the last step, the same for all of them.

    Args:
      step: the one that this process would begin.
      signal: by which this process was asked.

    Returns:
      None: the step is to be begun; else the signal.
    """
    return None if _watch is None or count() == 1 else _watch.asked_before(step, signal)


@contextlib.contextmanager
def together(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[None]:
    """What is done inside is done by all processes of a cluster, if this is one of several; the end of one is the end of all.

    A cluster is found as JAX finds it: of SLURM, Open MPI, Kubernetes and Cloud TPU. A lone process stays alone. It is to
    be entered before JAX has looked for devices, and nothing is computed together behind it. Where it is left by an error
    the others are told, and end with one line.

    Args:
      coordinator: HOST:PORT of the first process, where no cluster is found; then the next two are needed as well.
      processes, process_id: how many there are, and which this is, from 0.
      timeout: seconds that processes wait for one another, to begin and to end.

    Raises:
      InputError: options that do not go together, or others that are not there in time.
    """
    _start(coordinator, processes, process_id, timeout)
    try:
        yield
        _end()
    except BaseException as error:
        if _watch is not None and _watch.agreed and isinstance(error, KeyboardInterrupt):
            _end()
        elif _watch is not None:
            _watch.failed(error)
        raise


def _end() -> None:
    """Lets go of the others when all have done their work."""
    if _watch is None:
        return
    import jax

    meet("the end")
    _watch.stop()
    jax.distributed.shutdown()  # in which process 0 waits for the others


def _start(coordinator: str | None, processes: int | None, process_id: int | None, timeout: float) -> None:
    global _watch
    if not timeout > 0:
        raise InputError(f"--timeout is {timeout:g}: give seconds, more than 0")
    place = _given(coordinator, processes, process_id) or _found(timeout)
    if place is None or count() > 1:
        return
    import jax

    # The signal that it listens for is the command's to answer.
    jax.config.update("jax_enable_preemption_service", False)
    _watch = _Watch(place[0], place[2], timeout)
    try:
        jax.distributed.initialize(
            *place,
            initialization_timeout=max(int(timeout), 1),
            # Longer than it takes the watch, which says what happened where JAX ends the process.
            heartbeat_timeout_seconds=2 * int(timeout) + 60,
            shutdown_timeout_seconds=max(int(timeout), 1),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"process {place[2]} of {place[1]} does not reach the others at {place[0]} ({reason[:160]}): check that all of "
            "them run, with one --coordinator, or raise --timeout"
        ) from None
    _watch.begin()


def _given(coordinator: str | None, processes: int | None, process_id: int | None) -> tuple | None:
    """The arguments of `jax.distributed.initialize` that were given by hand; None: none were, or of a lone process."""
    given = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise InputError(f"--coordinator, --processes and --process-id go together: give {' and '.join(missing)} too")
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}", coordinator):
        raise InputError(f"--coordinator is {coordinator!r}: give HOST:PORT, where process 0 is to listen")
    if processes < 1:
        raise InputError(f"--processes is {processes}: give how many there are, at least 1")
    if not 0 <= process_id < processes:
        raise InputError(
            f"--process-id is {process_id}: of {processes} processes give a number from 0 to {processes - 1}"
        )
    return None if processes == 1 else (coordinator, processes, process_id, [])


def _found(timeout: float) -> tuple | None:
    """The same as JAX finds them out of the cluster that it is started by; None: there is none, or this is alone in it."""
    from jax._src.clusters import ClusterEnv, k8s_cluster  # The public interface starts a lone process, too.

    for cluster in ClusterEnv._cluster_types:
        # Only the pods of an indexed job have numbers; of others JAX cannot tell how many there are.
        lone = issubclass(cluster, k8s_cluster.K8sCluster) and "JOB_COMPLETION_INDEX" not in os.environ
        if cluster.opt_in_only_method or lone or not cluster.is_env_present():
            continue
        if cluster.get_process_count() < 2:
            return None
        address = cluster.get_coordinator_address(
            timeout_secs=max(int(timeout), 1), override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
        )
        # One device each, where several share a host; else all that are there.
        own = cluster.get_local_process_id()
        devices = [] if own is None or _alone_on_host() else [own]
        return address, cluster.get_process_count(), cluster.get_process_id(), devices
    return None


def _alone_on_host() -> bool:
    """Whether the launcher has put one process on each host: SLURM writes "1(x4)"."""
    said = next((os.environ[name] for name in _ON_HOST if name in os.environ), "")
    return re.fullmatch(r"1(\(x\d+\))?", said) is not None


class _Watch:
    """Tells the others that this process lives, and ends it when another one does not.

    Attributes:
      timeout: seconds that processes wait for one another.
    """

    def __init__(self, address: str, number: int, timeout: float):
        self.number = number
        self.timeout, self._address, self._silent = timeout, address, min(timeout / 2, _SILENT)
        self._stopped, self._telling = threading.Event(), threading.Lock()
        # The last step that this process has begun, and whether it has told the others.
        self._step, self._told = 0, False
        self._stepping, self.agreed = threading.Lock(), False
        # JAX's runtime aborts a process that has lost the first one, in a thread in which Python's own handlers do not run.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._abort)
        self._before = _handle_abort(ctypes.cast(self._handler, ctypes.c_void_p))

    def begin(self) -> None:
        self._client = _state().client
        threading.Thread(target=self._run, name="jaxprompt processes", daemon=True).start()

    def stop(self) -> None:
        """All have done their work, and may go."""
        self._stopped.set()
        _handle_abort(self._before)

    def failed(self, error: BaseException) -> None:
        """Tells the others what ends this process; where that is another's end, this one's line is about that."""
        if self._stopped.is_set() or not hasattr(self, "_client"):
            return
        if isinstance(error, RuntimeError):
            # What a collective raises where another process is gone: the watch finds which, and ends this one.
            time.sleep(1.5 * self._silent + 4 * _LOOKS)
        status, said = 1, f"{type(error).__name__}: {error}".partition("\n")[0]
        if isinstance(error, InputError):
            status, said = 2, str(error)
        elif isinstance(error, KeyboardInterrupt):
            status, said = 130, "interrupted"
        elif isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
            traceback.print_exception(error)
        ended = {"process": number(), "status": status, "said": said}
        with contextlib.suppress(RuntimeError):
            self._client.key_value_set(_ENDED, json.dumps(ended))
            self._stopped.set()
            if is_first():
                time.sleep(4 * _LOOKS)  # Who has not heard it by then hears that the coordination service is gone.
            return
        time.sleep(4 * _LOOKS)  # Another one was first to fail: the watch ends this one.

    def asked_before(self, step: int, signal: int | None) -> int | None:
        """As the function of this name."""
        if signal is not None and not self._told:
            with contextlib.suppress(RuntimeError):  # Another one was asked, too.
                self._client.key_value_set(_ASKED, str(signal))
            self._tell_step()
        with self._stepping:
            if not self._told:
                self._step = step
                return None
        # The devices of one that waits here may keep another's from going on: its watch answers for it.
        until = time.monotonic() + self.timeout
        while len(begun := self._client.key_value_dir_get(_BEGUN)) < count():
            if time.monotonic() > until:
                raise InputError(
                    f"process {number()} waited {self.timeout:g} s for the others to agree on the last step"
                )
            time.sleep(_LOOKS / 5)
        self.agreed = step > max(int(last) for _, last in begun)
        return int(self._client.key_value_try_get(_ASKED)) if self.agreed else None

    def _tell_step(self) -> None:
        """Says which step was begun last, once; from then on steps are begun as far as that of the others."""
        with self._stepping:
            if not self._told:
                self._told = True
                self._client.key_value_set(f"{_BEGUN}{number()}", str(self._step))

    def _run(self) -> None:
        beats, seen, told = itertools.count(), {}, 0.0
        while not self._stopped.wait(_LOOKS):
            now = time.monotonic()
            try:
                if now - told > self._silent / 6:
                    self._client.key_value_set(f"{_ALIVE}{number()}", str(next(beats)), allow_overwrite=True)
                    told = now
                    if is_first():
                        self._look(seen, now)
                if not self._told and self._get(_ASKED) is not None:
                    self._tell_step()
                ended = self._get(_ENDED)
                ended = None if ended is None else json.loads(ended)
            except RuntimeError:
                ended = {"process": 0, "status": 1, "said": None}
            if ended is not None and ended["process"] != number():
                self._leave(ended)

    def _look(self, seen: dict[str, tuple[str, float]], now: float) -> None:
        """Says of a process that has been silent that it has ended."""
        seen.setdefault("begun", ("", now))
        for name, beat in self._client.key_value_dir_get(_ALIVE):
            if seen.get(name, ("", 0.0))[0] != beat:
                seen[name] = beat, now
        for other in range(count()):
            since = seen.get(f"{_ALIVE}{other}", seen["begun"])[1]
            if now - since > self._silent:
                ended = {"process": other, "status": 1, "said": None}
                with contextlib.suppress(RuntimeError):  # Another one was said to have.
                    self._client.key_value_set(_ENDED, json.dumps(ended))

    def _get(self, name: str) -> str | None:
        try:
            return self._client.key_value_try_get(name)
        except RuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def _leave(self, ended: dict) -> NoReturn:
        """Ends this process since another one has, whatever it waits for."""
        which = f"process {ended['process']}"
        if ended["said"] is None:
            self._tell(
                f"{which} of {count()} has ended without a word: see its output, then give the same command again"
            )
        else:
            self._tell(f"{which} of {count()} has ended: {ended['said']}")
        if is_first() and ended["process"] != 0:
            time.sleep(4 * _LOOKS)
        os._exit(ended["status"])

    def _abort(self, _: int) -> None:
        if not hasattr(self, "_client"):
            self._tell(
                f"process {self.number} has waited {self.timeout:g} s at {self._address} for the others to begin: check that all "
                "of them run, with one --coordinator, or raise --timeout"
            )
            os._exit(2)
        self._tell(
            f"process {self.number} has lost process 0 at {self._address}, or the runtime has failed: see what process 0 says, "
            "or give -v"
        )
        os._exit(1)

    def _tell(self, line: str) -> None:
        if self._telling.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            with contextlib.suppress(OSError):
                os.write(2, f"jaxprompt: error: {line}\n".encode())


def _handle_abort(handler: ctypes.c_void_p | int | None) -> int | None:
    """Sets what an abort calls, and returns what it called before."""
    function = ctypes.CDLL(None).signal
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return function(signal.SIGABRT, handler)


_watch: _Watch | None = None
