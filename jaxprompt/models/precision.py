"""How exactly products of float32 are computed, which a TPU does in bfloat16 and a GPU in TF32 unless a program asks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprompt.errors import InputError, did_you_mean

PRECISIONS = ("highest", "high", "default")


def check_precision(name: str) -> str:
    """Returns `name`; raises InputError if it is no precision of products."""
    if name not in PRECISIONS:
        raise InputError(f"unknown matmul_precision {name!r}{did_you_mean(name, PRECISIONS)}")
    return name


def as_asked(method: Callable) -> Callable:
    """Makes a module's method compute its products, and their gradients, by the module's `matmul_precision`."""
    return _within(method, lambda module: module.matmul_precision)


def exact(method: Callable) -> Callable:
    """Makes a module's method compute its products of float32, and their gradients, as such."""
    return _within(method, lambda module: "highest")


def _within(method, precision_of):
    @functools.wraps(method)
    def run(module, *args, **kwargs):
        # Those of bfloat16 are exact as they are.
        precision = "default" if module.dtype == jnp.bfloat16 else precision_of(module)
        with jax.default_matmul_precision(precision):
            return method(module, *args, **kwargs)

    return run
