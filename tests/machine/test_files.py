import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprompt.errors import InputError
from jaxprompt.machine import files
from jaxprompt.machine.files import append, is_temporary, whole_file, writing


def test_a_whole_file_has_the_users_mode_and_nothing_beside_it(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.bin") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert [(p.name, p.read_bytes(), stat.S_IMODE(p.stat().st_mode)) for p in tmp_path.iterdir()] == [
        ("a.bin", b"new", 0o640)
    ]


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    full = pytest.raises(
        InputError, match=r"a\.bin' cannot be written \(No space left.*\): free space and give the same"
    )
    with full, whole_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_what_a_killed_process_left_goes_with_the_next_writing_and_a_live_ones_stays(tmp_path):
    left = """
import os, sys
from pathlib import Path
from jaxprompt.machine.files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / "a.bin"
    subprocess.run([sys.executable, "-c", left, str(path)], check=False)
    (dead,) = tmp_path.iterdir()
    live = dead.with_name(dead.name.rsplit(".", 2)[0] + f".{os.getppid()}.tmp")
    live.write_bytes(b"being written")
    other = tmp_path / ".b.bin.host.1.tmp"
    other.write_bytes(b"of another file")
    with whole_file(path) as file:
        file.write(b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, live.name, other.name])
    assert [is_temporary(p) for p in (dead, live, other, path, tmp_path / ".tmp")] == [True] * 3 + [False] * 2


def test_a_whole_file_is_on_the_disk_before_it_has_its_name_and_then_its_name(tmp_path, monkeypatch):
    path, done = tmp_path / "a.bin", []

    def fsync(descriptor):
        done.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with whole_file(path) as file:
        file.write(b"new")
    assert [(is_temporary(at), at.parent, there) for at, there in done[:1]] == [(True, tmp_path, False)]
    assert done[1:] == [(tmp_path, True)]


def test_a_failure_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"Not a directory.*: its folder is gone: name another, or start anew"):
        append(tmp_path / "file" / "b", b"x")
    for number, remedy in ((errno.EROFS, "make it writable"), (errno.EIO, "look after the disk")):
        with pytest.raises(InputError, match=remedy), writing("place"):
            raise OSError(number, os.strerror(number))


def test_appending_goes_on_until_all_is_written(tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(data[:1])

    path = tmp_path / "lines"
    monkeypatch.setattr(files.Path, "open", lambda self, mode, buffering: Slow(self, mode))
    append(path, b"one\n")
    append(path, b"two\n")
    monkeypatch.undo()
    assert path.read_bytes() == b"one\ntwo\n"
