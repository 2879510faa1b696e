"""Files that a process writes: whole or not at all, and a disk that takes no more said in one line."""

import contextlib
import errno
import glob
import io
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jaxprompt.errors import InputError
from jaxprompt.machine.processes import is_first

_REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space and give the same command again")
_REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or name another place")
_REMEDIES |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "its folder is gone: name another, or start anew")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a failure to write into an InputError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """What to say of a file or folder that could not be written."""
    remedy = _REMEDIES.get(error.errno, "look after the disk and give the same command again")
    return InputError(f"{str(path)!r} cannot be written ({error.strerror or error}): {remedy}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place when all of it is on the disk.

    It is readable by whom the user's other new files are. What a process that was killed has left of it goes. Of several
    processes the first alone writes it.

    Raises:
      InputError: it cannot be written; what was there before is still there.
    """
    if not is_first():
        yield io.BytesIO()
        return
    here = socket.gethostname()[:40]
    temporary = path.with_name(f".{path.name}.{here}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(here)}.*.tmp"):
            if not runs(left.name.split(".")[-2]):
                left.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a path has the name of a file that `whole_file` has not written whole."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not for folders, of some network file systems
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place when all of it is there.

    Raises:
      InputError: there is one already, or it cannot be written; nothing is left then.
    """
    if path.exists():
        raise InputError(f"{str(path)!r} is there already: name another folder, or remove it")
    partial = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror or error} (name another folder)") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def append(path: Path, data: bytes) -> None:
    """Adds to the end of a file, as the first of several processes. Raises InputError when it cannot; a part may have been added then."""
    if not is_first():
        return
    with writing(path), path.open("ab", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def sync(path: Path) -> None:
    """Puts what was added to a file on the disk. Raises InputError when that is full, or the file gone."""
    if not is_first():
        return
    with writing(path), path.open("rb") as file:
        os.fsync(file.fileno())


def runs(pid: str) -> bool:
    """Whether there is a process of this number, or it is none."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True
    return True
