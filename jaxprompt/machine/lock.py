"""One process at a time writes a folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxprompt.errors import InputError
from jaxprompt.machine.files import runs, writing

LOCK = ".lock"
# What a file system says that knows no locks of the kernel.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_held: set[int] = set()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing a folder, which is made if it is not there.

    The kernel holds the lock and lets go of it however the process ends, so that what a killed one left is taken over. The
    file names its owner, which counts by itself where a file system has no locks. A folder that was made and got nothing is
    removed again.

    Raises:
      InputError: another process has it, or the folder cannot be written.
    """
    path = folder / LOCK
    with writing(folder):
        made = [above for above in (folder, *folder.parents) if not above.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with writing(path):
            descriptor = _take(path, folder)
        _held.add(descriptor)
        try:
            yield
        finally:
            # Before it is let go, or it would be another's that is removed.
            with contextlib.suppress(OSError):
                path.unlink()
            _held.discard(descriptor)
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):
            for above in made:
                above.rmdir()


def _take(path: Path, folder: Path) -> int:
    """Opens the lock file, held and with this process's name in it; returns its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _lock(descriptor)
            owner = os.pread(descriptor, 300, 0).decode(errors="replace").split()
            if free is False or (free is None and len(owner) == 2 and not _gone(*owner)):
                who = f"process {owner[1]} on {owner[0]}" if len(owner) == 2 else "another process"
                kept = "" if free is False else f", or delete {str(path)!r} if that has ended"
                raise InputError(
                    f"run folder {str(folder)!r} is being written by {who}: wait until it ends, or name another "
                    f"run_dir{kept}"
                )
            if _is_at(path, descriptor):
                try:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
                except OSError:  # the disk is full
                    path.unlink()
                    raise
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it meanwhile


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel gives the lock; None: the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _gone(host: str, pid: str) -> bool:
    """Whether an owner is known to have ended."""
    return host == socket.gethostname() and not runs(pid)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Lets a forked child, such as one that reads data, not hold a lock longer than its parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
