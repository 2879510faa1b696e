"""Where rows come from: a table by scheme. A source is one file here and one line of `SCHEMES`."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.data.sources.base import Row, Source
from jaxprompt.data.sources.files import open_file, printable
from jaxprompt.data.sources.memory import memory_reference, not_kept, open_rows
from jaxprompt.data.sources.package import open_package
from jaxprompt.errors import InputError

__all__ = ["Row", "Source", "memory_reference", "open_source", "read_rows"]

Reference = str | Path | Sequence[Mapping[str, Any]]
SCHEMES: dict[str, Callable[[str, Sequence[str] | None], Source]] = {
    "package": open_package,
    "memory": not_kept,
}


def open_source(reference: Reference, columns: Sequence[str] | None = None) -> Source:
    """Opens what a reference names.

    Args:
      reference: a .jsonl, .json, .csv, .tsv or .parquet file; `package:MODULE/PATH`, such a file inside an installed
        package; or rows. JSON holds objects, or strings, which become the column "text". CSV is quoted; TSV is not, as
        in GLUE. Text is UTF-8.
      columns: names the columns of a .csv or .tsv that has no header line.

    Raises:
      InputError: it is missing, unreadable, empty or malformed; the message names it and, where there is one, the line.
    """
    if not isinstance(reference, str | Path):
        return open_rows(reference, columns)
    # One letter is a drive.
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", str(reference))
    if isinstance(reference, str) and scheme and scheme[1] in SCHEMES:
        return SCHEMES[scheme[1]](reference, columns)
    if scheme and not os.path.lexists(reference):
        raise InputError(
            f"{printable(reference)}: no such file, and rows are not read from {scheme[1] + ':'!r} (name a file, or "
            "package:MODULE/PATH)"
        )
    return open_file(reference, columns)


def read_rows(reference: Reference, columns: Sequence[str] | None = None) -> list[Row]:
    """Returns all rows of what a reference names; more as in `open_source`."""
    return list(open_source(reference, columns))
