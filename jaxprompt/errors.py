"""The one exception for bad input, and the help its messages give."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad config, data, weights or prompt file.

    The message is one line that names the thing, the value and the remedy. The command line prints it and exits
    with status 2.
    """


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest option, or the list of options when none is near."""
    options = [str(option) for option in options]
    near = difflib.get_close_matches(str(value), options, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (choose from: {', '.join(options)})" if options else ""
