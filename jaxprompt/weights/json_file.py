"""The JSON of a model folder, read so that nothing in it is guessed at or passes unseen."""

import json
import math
import stat
from pathlib import Path
from typing import Any

from jaxprompt.errors import InputError


def check_file(path: Path) -> None:
    """Raises InputError unless `path` is a file, or a link to one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise InputError(f"{path} {what}: a model folder needs {path.name}, download it again") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise InputError(f"{path} is {what}, expected a file: remove it and download the model's {path.name}")


def unreadable(path: Path, error: OSError | ValueError) -> InputError:
    """Returns what to raise about a file that the system will not give."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{path} cannot be read ({reason}): check its permissions, or download it again")


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object; raises InputError if the file is missing, unreadable or malformed."""
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        value = parse_object(data)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}: mend it or download it again") from error
    name = _not_finite(value)
    if name is not None:
        raise InputError(
            f"{path}: {name} is no finite number, which JSON cannot hold: set it, or download the file again"
        )
    return value


def parse_object(data: bytes) -> dict[str, Any]:
    """Returns the JSON object that UTF-8 `data` holds; raises ValueError with a reason of one line."""
    if not data:
        raise ValueError("it is empty")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        # Of an integer of thousands of digits Python adds how to allow it.
        raise ValueError(str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, expected a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:100]!r} occurs twice")
    return found


def _not_finite(value: Any) -> str | None:
    """Returns where in a JSON value the first NaN or infinity is (Python's parser takes both, and 1e999)."""
    todo = [("", value)]
    while todo:
        where, value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return where
        if isinstance(value, dict):
            todo += [(f"{where}[{key!r}]" if where else repr(key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            todo += [(f"{where}[{number}]", inner) for number, inner in enumerate(value)]
    return None
