"""One process at a time writes a folder."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest

from jaxprompt.errors import InputError
from jaxprompt.machine.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from jaxprompt.machine.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
REFUSED = r"^run folder '.*' is being written by process {} on {}: wait until it ends, or name another run_dir{}$"


def refused(pid, host=None, more=""):
    return pytest.raises(InputError, match=REFUSED.format(pid, host or socket.gethostname(), more))


def test_two_processes_do_not_write_one_folder_and_a_killed_one_is_followed(tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with refused(other.pid), locked(folder):
            pass
        assert (folder / LOCK).exists()
    finally:
        other.kill()
        other.communicate()
    assert (folder / LOCK).exists()
    with locked(folder):
        assert (folder / LOCK).read_text() == f"{socket.gethostname()} {os.getpid()}\n"
    assert list(folder.iterdir()) == []


def test_two_threads_do_not_either(tmp_path):
    said = []

    def other():
        with refused(os.getpid()), locked(tmp_path):
            pass
        said.append(True)

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said
    with locked(tmp_path):
        pass


def test_a_folder_that_got_nothing_is_removed_and_one_that_was_there_stays(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "runs" / "a"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with locked(tmp_path / "there" / "b"):
        (tmp_path / "there" / "b" / "file").write_bytes(b"")
    with locked(tmp_path / "there"):
        pass
    assert (tmp_path / "there" / "b" / "file").exists()


def test_a_child_does_not_hold_the_lock_longer_than_its_parent(tmp_path):
    """As a process that reads data may live on when the run is killed."""
    program = HOLD.replace(
        "    print", "    import os\n    if not os.fork():\n        time.sleep(60)\n    time.sleep(0.2)\n    print"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert other.stdout.readline() == b"held\n"
        other.kill()
        other.wait()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(other.pid, 9)
        other.stdout.close()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_the_owner_in_the_file_counts(tmp_path, no_locks):
    file, ended = tmp_path / LOCK, subprocess.Popen(["true"])
    ended.wait()
    for left in ("", "half a li", f"{socket.gethostname()} {ended.pid}\n"):
        file.write_text(left)
        with locked(tmp_path):
            more = f", or delete '{file}' if that has ended"
            with refused(os.getpid(), more=more), locked(tmp_path):
                pass
        assert not file.exists()
    file.write_text("elsewhere 1\n")
    with refused(1, "elsewhere", f", or delete '{file}' if that has ended"), locked(tmp_path):
        pass


def test_a_lock_that_its_owner_removed_meanwhile_is_not_taken_for_one(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def removed_first(descriptor, how):
        calls.append(1)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with locked(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK).exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(InputError, match=r"cannot be written \(No space left on device\): free"),
        locked(tmp_path / "run"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be written \(.*\): .*"), locked(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"), locked(tmp_path / "file" / "run"):
        pass
