"""JSON lines by number: of a file of any size only the places of its lines are held."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from jaxprompt.data.sources.base import Reading, Row, Source, Unchanged
from jaxprompt.data.sources.json_files import json_line
from jaxprompt.errors import InputError

_PIECE = 16 * 2**20
_MARK = b"\xef\xbb\xbf"
# Longer lines are read as rows, and refused if they are blank.
_BLANK = 8


class JsonLinesSource(Source):
    """Rows of a .jsonl file, eight bytes of memory for each. Copies in other processes open a file of their own."""

    def __init__(self, name: str, path: Path):
        self.name, self._path = name, path
        self._file: BinaryIO | None = None
        self._unchanged = Unchanged(path)
        self._starts, self._fingerprint = _line_starts(path)
        short = np.flatnonzero(np.diff(self._starts) <= _BLANK + 1)
        blank = [number for number in short.tolist() if not self._line(number).strip()]
        # Which lines hold rows; None: all.
        self._kept = np.delete(np.arange(len(self._starts) - 1), blank) if blank else None

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._kept is None else len(self._kept)

    def _row(self, number: int) -> Row:
        line = number if self._kept is None else int(self._kept[number])
        data = self._line(line)
        try:
            text = (data if line else data.removeprefix(_MARK)).decode()
        except UnicodeDecodeError as error:
            byte = f"byte 0x{data[error.start]:02x}"
            raise InputError(f"{self.name}:{line + 1}: {byte} is not UTF-8 (save the file as UTF-8)") from None
        return json_line(text, self.name, line + 1)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def _line(self, number: int) -> bytes:
        self._unchanged.check(self)
        if self._file is None:
            try:
                self._file = self._path.open("rb", buffering=0)
            except OSError as error:
                raise InputError(f"{self.name}: cannot be read any more ({error.strerror}): put it back") from None
        start, following = self._starts[number : number + 2].tolist()
        # Several threads may read: there is no place in the file to share.
        return os.pread(self._file.fileno(), following - 1 - start, start)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _line_starts(path: Path) -> tuple[Int64[np.ndarray, "lines_and_end"], str]:
    """Where each line starts, and where another would behind the last; and the file's `file_digest`."""
    digest, ends, size = hashlib.sha256(), [np.full(1, -1)], 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")) + size)
            size += len(piece)
    if ends[-1].size == 0 or ends[-1][-1] != size - 1:
        ends.append(np.full(1, size))  # the last line has no end of its own
    return np.concatenate(ends) + 1, hashlib.sha256(digest.digest()).hexdigest()[:12]


def open_json_lines(path: Path, name: str, how: Reading) -> JsonLinesSource:
    """Raises InputError for another encoding than UTF-8."""
    if how.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        raise InputError(f"{name}: data.stream reads lines of UTF-8, not {how.encoding} (save the file as UTF-8)")
    return JsonLinesSource(name, path)
