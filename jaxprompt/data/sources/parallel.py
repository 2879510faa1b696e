"""Parallel text: files of as many lines, a language each."""

import re
from pathlib import Path

from jaxprompt.data.sources.base import ListSource, Reading
from jaxprompt.data.sources.files import open_text
from jaxprompt.data.sources.lines import numbered
from jaxprompt.errors import InputError

_NAMED = re.compile(r"parallel:(.*)\{([^{},]+(?:,[^{},]+)+)\}(.*)")


def open_parallel(reference: str, how: Reading) -> ListSource:
    """Opens `parallel:train.{en,de}`: line n of train.en and of train.de are row n, its columns en and de.

    Raises InputError for another form, or files of different lengths.
    """
    match = _NAMED.fullmatch(reference)
    if match is None:
        raise InputError(
            f"{reference!r}: expected such as 'parallel:train.{{en,de}}', with two columns or more (correct it)"
        )
    before, names, behind = match.groups()
    columns = {}
    for name in names.split(","):
        text = open_text(Path(f"{before}{name}{behind}"), how)
        columns[name] = [line for _, line in numbered(text.removesuffix("\n"))]
    lengths = {f"{before}{name}{behind}": len(lines) for name, lines in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{path} has {count} lines" for path, count in lengths.items())
        raise InputError(f"{said}: parallel text has as many on each side (correct the files)")
    rows = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    return ListSource(reference, rows)
