"""The one exception for bad input, and the help its messages give."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class InputError(ValueError):
    """Bad config, data, weights or prompt file, or more asked for than the machine has memory for.

    The message is one line that names the thing, the value and the remedy. The command line prints it and exits
    with status 2.
    """


class NotFinite(InputError):
    """Numbers that are NaN or infinite: one of several learners can be given up for them, and the others go on."""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest option, or the list of options when none is near."""
    options = [str(option) for option in options]
    # Comparing takes quadratic time in the length: whole texts, as of a wrong column, are no misspelt names.
    short = len(str(value)) <= 100 and len(options) <= 1000
    near = difflib.get_close_matches(str(value), [o for o in options if len(o) <= 100], n=1) if short else []
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (choose from: {listed(options)})" if options else ""


def listed(names: Iterable[str], most: int = 20) -> str:
    """Returns names with commas between them: the first of them where there are many, the start of long ones."""
    names = [str(name) for name in names]
    rest = [f"... and {len(names) - most} more"] if len(names) > most + 1 else []
    names = names[:most] if rest else names
    return ", ".join([name if len(name) <= 60 else f"{name[:57]}..." for name in names] + rest)


@contextmanager
def within_memory(remedy: str) -> Iterator[None]:
    """Turns a device's failure to find memory for what is done inside into an InputError that names the remedy."""
    try:
        yield
    except RuntimeError as error:  # as jax.errors.JaxRuntimeError is; this module stays free of JAX
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0].rstrip(".")
        raise InputError(f"not enough device memory ({found}): {remedy}") from error


def not_finite(what: str, dtype: Any) -> NotFinite:
    """What to say of `what` a model of this type scored: NaN, or infinities."""
    if np.dtype(dtype) == np.float16:
        why = "the model overflows float16: set dtype to bfloat16"
    else:
        why = "the model's weights or the prompt lead there: check the weights, or learn the prompt again"
    return NotFinite(f"the scores of {what} are not finite: {why}")
