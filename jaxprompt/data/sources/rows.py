"""Files of rows -> lists of dictionaries."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.errors import InputError, did_you_mean

Row = dict[str, Any]


def read_rows(source: str | Path | Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> list[Row]:
    """Reads rows of data.

    Args:
      source: rows, or the path of a .jsonl, .json, .csv, .tsv or .parquet file. JSON holds objects, or strings, which
        become the column "text". CSV is quoted; TSV is not, as in GLUE. Text is UTF-8.
      columns: names the columns of a .csv or .tsv that has no header line.

    Raises:
      InputError: the file is missing, empty or malformed; the message has its path and, where there is one, the line.
    """
    if not isinstance(source, str | Path):
        if columns is not None:
            raise InputError("columns name those of a .csv or .tsv file, not of rows in memory (remove them)")
        return _checked(source)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise InputError(f"{path}: unknown kind of file {suffix!r}{did_you_mean(suffix, _READERS)}")
    if columns is not None and suffix not in (".csv", ".tsv"):
        raise InputError(f"{path}: columns name those of a .csv or .tsv file without a header (remove them)")
    if not path.is_file():
        raise InputError(f"{path}: {_missing(path)}")
    rows = _READERS[suffix](path, columns)
    if not rows:
        raise InputError(f"{path}: no rows (give at least one)")
    return rows


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = list(rows)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} is {row!r:.60} (give a dictionary of columns)")
    if not rows:
        raise InputError("no rows (give at least one)")
    return [dict(row) for row in rows]


def _missing(path: Path) -> str:
    if path.is_dir():
        return "is a folder (name a file in it)"
    if not path.parent.is_dir():
        return f"no such file, and no folder {str(path.parent)!r}"
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in _READERS)
    return f"no such file{did_you_mean(path.name, names)}"


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8 (save the file as UTF-8)"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty (give at least one row)")
    return text


def _json_lines(path: Path, columns: None) -> list[Row]:
    # Not splitlines: a line separator U+2028 may stand inside a JSON string.
    lines = enumerate(_text(path).split("\n"), start=1)
    return [_json_row(_json(line, path, number), f"{path}:{number}") for number, line in lines if line.strip()]


def _json_list(path: Path, columns: None) -> list[Row]:
    values = _json(_text(path), path, 1)
    if not isinstance(values, list):
        raise InputError(f"{path}: holds one {type(values).__name__} (give a list, or name the file .jsonl)")
    return [_json_row(value, f"{path}: item {number}") for number, value in enumerate(values, start=1)]


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno} (correct the line)") from None
    except RecursionError:
        raise InputError(f"{path}:{line}: JSON nested too deeply (give flat objects)") from None


def _json_row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {value!r:.60} is not a row (give an object or a string)")
    return value


def _csv(path: Path, columns: Sequence[str] | None) -> list[Row]:
    return _table(path, columns, strict=True)


def _tsv(path: Path, columns: Sequence[str] | None) -> list[Row]:
    return _table(path, columns, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: Path, columns: Sequence[str] | None, **dialect: Any) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    lines = _table_lines(path, csv.reader(io.StringIO(_text(path), newline=""), **dialect))
    line, names = next(lines, (0, [])) if columns is None else (0, list(columns))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}{f':{line}' if line else ''}: two columns {twice[0]!r} (rename one)")
    rows = []
    for line, values in lines:
        if len(values) != len(names):
            raise InputError(
                f"{path}:{line}: {len(values)} values for {len(names)} columns: {', '.join(names)} (correct the line)"
            )
        rows.append(dict(zip(names, values, strict=True)))
    if not rows:
        raise InputError(f"{path}: only a header (give at least one row, or name the columns of a file without one)")
    return rows


def _table_lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yields each record with the line it starts on, blank lines left out."""
    line = 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{line}: {error} (correct the line, or its quotes)") from None
        if values:
            yield line, values
        line = reader.line_num + 1


def _parquet(path: Path, columns: None) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: reading it needs pyarrow (pip install 'jaxprompt[parquet]')") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable Parquet file: {message} (write it again)") from None


_READERS = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
