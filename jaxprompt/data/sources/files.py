"""Files of rows, by their suffix."""

import errno
import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from jaxprompt.data.sources.base import AS_NAMED, ListSource, Reading, Row, Source
from jaxprompt.data.sources.json_files import read_json, read_json_lines
from jaxprompt.data.sources.json_index import open_json_lines
from jaxprompt.data.sources.lines import read_lines, read_pattern
from jaxprompt.data.sources.packed import UNPACKERS, unpacked
from jaxprompt.data.sources.parquet import open_parquet, read_parquet
from jaxprompt.data.sources.tables import read_csv, read_tsv
from jaxprompt.errors import InputError, did_you_mean

# Of a text file, a reader gets the text; of any other, the open file. All get the file's name for messages.
TEXT: dict[str, Callable[[str, str], list[Row]]] = {".jsonl": read_json_lines, ".json": read_json, ".txt": read_lines}
TABLE: dict[str, Callable[[str, str, Reading], list[Row]]] = {".csv": read_csv, ".tsv": read_tsv}
BINARY: dict[str, Callable[[BinaryIO, str], list[Row]]] = {".parquet": read_parquet}
SUFFIXES = (*TEXT, *TABLE, *BINARY)
# Read by number, where that is asked for.
LAZY: dict[str, Callable[[Path, str, Reading], Source]] = {".jsonl": open_json_lines, ".parquet": open_parquet}

# What a file that is no UTF-8 text may be: how it starts, its name, and the remedy.
_KINDS = (
    (b"\x1f\x8b", "compressed by gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save it as .csv"),
    (b"BZh", "compressed by bzip2", "unpack it"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"\xff\xfe", "UTF-16", "set data.encoding to utf-16"),
    (b"\xfe\xff", "UTF-16", "set data.encoding to utf-16"),
)


def open_file(reference: str | Path, how: Reading = AS_NAMED) -> Source:
    """Reads a file whole, or by number if `how` asks for it and the file is of the kind; more as in `open_source`."""
    path, name = Path(reference), printable(reference)
    if not name:
        raise InputError("the name of a file of rows is empty (name a file)")
    inner = path.with_suffix("") if path.suffix.lower() in UNPACKERS else path
    suffix = inner.suffix.lower()
    if suffix not in SUFFIXES and how.pattern is None:
        raise InputError(f"{name}: unknown kind of file {suffix!r}{did_you_mean(suffix, SUFFIXES)}")
    if how.columns is not None and (suffix not in TABLE or how.pattern is not None):
        raise InputError(f"{name}: columns name those of a .csv or .tsv file without a header (remove them)")
    if how.lazy and inner == path and suffix in LAZY and how.pattern is None:
        _opened(path, name).close()
        source = LAZY[suffix](path, name, how)
    elif how.pattern is not None:
        source = ListSource(name, read_pattern(open_text(path, how), name, how.pattern))
    elif suffix in BINARY:
        source = ListSource(name, BINARY[suffix](io.BytesIO(_contents(path, name)), name))
    else:
        text = open_text(path, how)
        source = ListSource(name, TABLE[suffix](text, name, how) if suffix in TABLE else TEXT[suffix](text, name))
    if not len(source):
        raise InputError(f"{name}: no rows (give at least one)")
    return source


def open_text(path: Path, how: Reading) -> str:
    """The text of a file, whatever its suffix; packed or not."""
    name = printable(path)
    return _text(_contents(path, name), name, how.encoding)


def _contents(path: Path, name: str) -> bytes:
    """What a file holds, unpacked."""
    with _opened(path, name) as file:
        return unpacked(file.read(), path.suffix.lower(), name)


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


def _text(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """Decodes text, with or without a byte order mark. Raises InputError for other bytes, a NUL, or no text at all."""
    known = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    try:
        text = data.decode("utf-8-sig" if known else encoding)
    except LookupError:
        raise InputError(f"data.encoding is {encoding!r}, which is none (name one, such as utf-8 or latin-1)") from None
    except UnicodeDecodeError as error:
        if known:
            _refuse_kind(data, name)
        line = data.count(b"\n", 0, error.start) + 1
        kind = "UTF-8" if known else encoding
        remedy = "save the file as UTF-8, or set data.encoding" if known else "set data.encoding to the file's"
        raise InputError(f"{name}:{line}: byte 0x{data[error.start]:02x} is not {kind} ({remedy})") from None
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
