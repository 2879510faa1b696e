"""Files of rows, by their suffix."""

import errno
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from jaxprompt.data.sources.base import ListSource, Row
from jaxprompt.data.sources.json_files import read_json, read_json_lines
from jaxprompt.data.sources.parquet import read_parquet
from jaxprompt.data.sources.tables import read_csv, read_tsv
from jaxprompt.errors import InputError, did_you_mean

# Of a text file, a reader gets the text; of any other, the open file. Both get the file's name for messages.
TEXT: dict[str, Callable[[str, str], list[Row]]] = {".jsonl": read_json_lines, ".json": read_json}
TABLE: dict[str, Callable[[str, str, Sequence[str] | None], list[Row]]] = {".csv": read_csv, ".tsv": read_tsv}
BINARY: dict[str, Callable[[BinaryIO, str], list[Row]]] = {".parquet": read_parquet}
SUFFIXES = (*TEXT, *TABLE, *BINARY)

# What a file that is no UTF-8 text may be: how it starts, its name, and the remedy.
_KINDS = (
    (b"\x1f\x8b", "compressed by gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save it as .csv"),
    (b"BZh", "compressed by bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"\xff\xfe", "UTF-16", "save the file as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save the file as UTF-8"),
)


def open_file(reference: str | Path, columns: Sequence[str] | None = None) -> ListSource:
    """Reads a file whole; more as in `open_source`."""
    path, name = Path(reference), printable(reference)
    if not name:
        raise InputError("the name of a file of rows is empty (name a file)")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{name}: unknown kind of file {suffix!r}{did_you_mean(suffix, SUFFIXES)}")
    if columns is not None and suffix not in TABLE:
        raise InputError(f"{name}: columns name those of a .csv or .tsv file without a header (remove them)")
    with _opened(path, name) as file:
        if suffix in BINARY:
            rows = BINARY[suffix](file, name)
        elif suffix in TABLE:
            rows = TABLE[suffix](_text(file.read(), name), name, columns)
        else:
            rows = TEXT[suffix](_text(file.read(), name), name)
    if not rows:
        raise InputError(f"{name}: no rows (give at least one)")
    return ListSource(name, rows)


def printable(path: str | Path) -> str:
    """Returns a path as messages show it: line breaks and what cannot be printed are escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _opened(path: Path, name: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        # Reading a pipe could wait for ever, and can be done once only.
        if stat.S_ISREG(mode):
            return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: {_missing(path)}") from None
    except OSError as error:
        remedy = "change its permissions" if error.errno in (errno.EACCES, errno.EPERM) else "name another file"
        raise InputError(f"{name}: cannot be read: {error.strerror or error} ({remedy})") from None
    except ValueError:
        raise InputError(f"{name}: has a NUL in its name (name another file)") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: is a folder (name a file in it)")
    raise InputError(f"{name}: is a pipe or a device (save what it gives to a file)")


def _missing(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"is a link to {printable(path.readlink())}, which does not exist (mend the link)"
        if not path.parent.is_dir():
            return f"no such file, and no folder {str(path.parent)!r} (check the path)"
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
    except OSError:
        names = []
    return f"no such file{did_you_mean(path.name, names) or ' (check the path)'}"


def _text(data: bytes, name: str) -> str:
    """Decodes UTF-8, with or without a byte order mark. Raises InputError for other bytes, a NUL, or no text at all."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse_kind(data, name)
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}:{line}: byte 0x{data[error.start]:02x} is not UTF-8 (save the file as UTF-8)"
        ) from None
    if "\0" in text:
        _refuse_kind(data, name)
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{name}:{line}: a NUL character, as in UTF-16 or a damaged file (save the file as UTF-8)")
    if not text.strip():
        raise InputError(f"{name}: the file is empty (give at least one row)")
    return text


def _refuse_kind(data: bytes, name: str) -> None:
    for start, kind, remedy in _KINDS:
        if data.startswith(start):
            raise InputError(f"{name}: is {kind}, not UTF-8 text ({remedy})")
