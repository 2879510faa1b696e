"""CSV and TSV."""

import csv
import functools
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxprompt.data.sources.base import Reading, Row, repeated
from jaxprompt.errors import InputError, listed


def read_csv(text: str, name: str, how: Reading) -> list[Row]:
    """Reads commas, and quotes unless told not to."""
    return _table(text, name, how.columns, **_dialect(how.quotes is not False))


def read_tsv(text: str, name: str, how: Reading) -> list[Row]:
    """Reads tabs; quotes are characters as any, as in GLUE, unless told so. Warns where values seem to be in quotes."""
    rows = _table(text, name, how.columns, delimiter="\t", **_dialect(how.quotes is True))
    header = list(rows[0])
    if how.quotes is not None:
        return rows
    if how.columns is None and all(map(_in_quotes, header)):
        _warn_of_quotes(name, header[0][:60])
    elif '""' in text:
        value = next((value for row in rows for value in row.values() if _doubled(value)), None)
        if value is not None:
            _warn_of_quotes(name, value[:60])
    return rows


def _dialect(quotes: bool) -> dict[str, Any]:
    return {"strict": True} if quotes else {"quoting": csv.QUOTE_NONE}


def _in_quotes(value: str) -> bool:
    return len(value) > 2 and value[0] == value[-1] == '"'


def _doubled(value: str) -> bool:
    """Whether a value is as a program writes one that holds quotes: in quotes, those inside doubled."""
    return _in_quotes(value) and '""' in value[1:-1] and '"' not in value[1:-1].replace('""', "")


@functools.cache  # Once per file, however often it is read.
def _warn_of_quotes(name: str, value: str) -> None:
    logging.getLogger("jaxprompt").warning(
        f"{name}: {value} seems to be quoted, and a .tsv is read without quotes: they are kept as text (set data.quotes to "
        "true, or to false if they are text)"
    )


def _table(text: str, name: str, columns: Sequence[str] | None, **dialect: Any) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    records = _records(name, csv.reader(io.StringIO(text, newline=""), **dialect))
    line, names = next(records, (0, [])) if columns is None else (0, list(columns))
    if len(set(names)) < len(names):
        raise InputError(f"{name}{f':{line}' if line else ''}: two columns {repeated(names)!r} (rename one)")
    rows = []
    for line, values in records:
        if len(values) != len(names):
            quoted = dialect.get("quoting") == csv.QUOTE_NONE and any(value.startswith('"') for value in values)
            remedy = "set data.quotes to true: a .tsv is read without quotes" if quoted else "correct the line"
            raise InputError(
                f"{name}:{line}: {len(values)} values for {len(names)} columns: {listed(names)} ({remedy})"
            )
        rows.append(dict(zip(names, values, strict=True)))
    if not rows:
        raise InputError(f"{name}: only a header (give at least one row, or name the columns of a file without one)")
    return rows


def _records(name: str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yields each record with the line it starts on, blank lines left out."""
    line = 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{name}:{line}: {error} (correct the line, or its quotes)") from None
        if values:
            yield line, values
        line = reader.line_num + 1
