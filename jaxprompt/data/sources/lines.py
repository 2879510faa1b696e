"""Text of one row a line."""

import re

from jaxprompt.data.sources.base import Row
from jaxprompt.errors import InputError
from jaxprompt.text.values import shown


def read_lines(text: str, name: str) -> list[Row]:
    """One row per line, its text in the column "text"; blank lines are left out."""
    return [{"text": line} for _, line in numbered(text) if line.strip()]


def read_pattern(text: str, name: str, pattern: str) -> list[Row]:
    """One row per line, its columns the named groups of a regular expression that matches all of it.

    Raises InputError for an expression that is none or names no group, or a line that it does not match.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.pattern {shown(pattern)} is no regular expression: {error} (correct it)") from None
    if not found.groupindex:
        raise InputError(f"data.pattern {shown(pattern)} names no group, such as (?P<text>.*), that could be a column")
    rows = []
    for number, line in numbered(text):
        if not line.strip():
            continue
        match = found.fullmatch(line)
        if match is None:
            raise InputError(f"{name}:{number}: data.pattern does not match {shown(line)} (correct one of them)")
        rows.append(match.groupdict(default=""))
    return rows


def numbered(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, without their ends: only \\n and \\r\\n end one."""
    return [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1)]
