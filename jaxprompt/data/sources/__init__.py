"""Where rows come from: a table by scheme. A source is one file here and one line of `SCHEMES`."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.data.sources.base import AS_NAMED, JoinedSource, Reading, Row, Source
from jaxprompt.data.sources.files import SUFFIXES, open_file, printable
from jaxprompt.data.sources.hub import open_hub
from jaxprompt.data.sources.memory import memory_reference, not_kept, open_rows
from jaxprompt.data.sources.package import open_package
from jaxprompt.data.sources.parallel import open_parallel
from jaxprompt.data.sources.tfds import open_tfds
from jaxprompt.errors import InputError

__all__ = ["Reading", "Row", "Source", "memory_reference", "names_files", "open_source", "read_rows"]

Reference = str | Path | Sequence[str | Path] | Sequence[Mapping[str, Any]]
SCHEMES: dict[str, Callable[[str, Reading], Source]] = {
    "hf": open_hub,
    "package": open_package,
    "parallel": open_parallel,
    "tfds": open_tfds,
    "memory": not_kept,
}
_PATTERN = re.compile(r"[*?\[]")


def open_source(reference: Reference, how: Reading = AS_NAMED) -> Source:
    """Opens what a reference names.

    Args:
      reference: a .jsonl, .json, .csv, .tsv, .txt or .parquet file, packed as .gz or .zst or not; a pattern of such, as
        `part-*.jsonl`; a list of references, whose rows follow one another; `package:MODULE/PATH`, a file inside an installed
        package; `parallel:train.{en,de}`, a file per column; `tfds:NAME/CONFIG:SPLIT` or `tfds:FOLDER:SPLIT`, a set that
        tensorflow-datasets has prepared as array_record files; `hf:REPOSITORY:SPLIT`, a set of Hugging Face's; or rows. JSON holds objects, strings, which become the column
        "text", or SQuAD's articles.

    Raises:
      InputError: it is missing, unreadable, empty or malformed; the message names it and, where there is one, the line.
    """
    if names_files(reference):
        return JoinedSource(", ".join(map(printable, reference)), [open_source(one, how) for one in reference])
    if not isinstance(reference, str | Path):
        return open_rows(reference, how)
    # One letter is a drive.
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", str(reference))
    if isinstance(reference, str) and scheme and scheme[1] in SCHEMES:
        return SCHEMES[scheme[1]](reference, how)
    if scheme and not os.path.lexists(reference):
        raise InputError(
            f"{printable(reference)}: no such file, and rows are not read from {scheme[1] + ':'!r} (name a file, or "
            f"{', '.join(f'{name}:' for name in SCHEMES if name != 'memory')})"
        )
    if _PATTERN.search(str(reference)) and not os.path.lexists(reference):
        return _matching(Path(reference), how)
    return open_file(reference, how)


def names_files(reference: Any) -> bool:
    """Whether a list names files, and does not hold rows."""
    return isinstance(reference, list | tuple) and bool(reference) and all(isinstance(r, str | Path) for r in reference)


def _matching(pattern: Path, how: Reading) -> Source:
    try:
        found = sorted(
            path
            for path in Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor)))
            if path.is_file()
        )
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"{printable(pattern)}: is no pattern of files: {error} (correct it)") from None
    if not found:
        raise InputError(f"{printable(pattern)}: no file matches (files are {', '.join(SUFFIXES)})")
    return JoinedSource(printable(pattern), [open_file(path, how) for path in found])


def read_rows(reference: Reference, how: Reading = AS_NAMED) -> list[Row]:
    """Returns all rows of what a reference names; more as in `open_source`."""
    return list(open_source(reference, how))
