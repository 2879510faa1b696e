"""Rounds weights to 8 or 4 bits on the host, a few rows at a time."""

import numpy as np

from jaxprompt.models.quantized import GROUP

# An int4 group is tried with its extreme number at either end of -8 ... 7, and with its range cut to these parts: what
# all others gain may outweigh what the extreme loses. More cuts gain under 1% of the error, and cost their share.
_CUTS = (0.93, 1.0)
_ENDS = (-8.0, 7.0)


def quantize_rows(rows: np.ndarray, values: np.ndarray, scale: np.ndarray) -> None:
    """Rounds float32 rows `[out, in]` into the `values` and `scale` of an int8 or int4 weight, laid out as there.

    Int8: a row's absolute maximum becomes 127. Int4: each group takes, of a few scales, the one of least squared error.
    """
    if values.dtype == np.int8:
        scale[:] = np.abs(rows).max(-1) / 127
        values[:] = _rounded(rows, scale[:, None], 127)
        return
    # Groups stand along the last axis: NumPy is fast along long axes, and a group is short.
    missing = -rows.shape[1] % GROUP
    filled = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    numbers = filled.reshape(-1, GROUP).T.copy()
    best_scale, _ = _int4_scale(numbers, scale.dtype)
    whole = _rounded(numbers, best_scale, 7)
    whole += 8
    whole = whole.astype(np.uint8)
    half = GROUP // 2
    values[:] = (whole[:half] | whole[half:] << 4).T.reshape(values.shape)
    scale[:] = best_scale.reshape(scale.shape)


def _int4_scale(numbers: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best scale of each group of `numbers [GROUP, groups]`, as float32, and its squared error."""
    low, high = numbers.min(0), numbers.max(0)
    extreme = np.where(-low > high, low, high)
    best, least = np.zeros_like(extreme), np.full_like(extreme, np.inf)
    off = np.empty_like(numbers)
    for end in _ENDS:
        for cut in _CUTS:
            # In its own type first, so that its rounding costs nothing.
            scale = (extreme * np.float32(cut / end)).astype(dtype).astype(np.float32)
            _rounded(numbers, scale, 7, out=off)
            off *= scale
            off -= numbers
            off *= off
            error = off.sum(0)
            better = error < least
            np.copyto(best, scale, where=better)
            np.copyto(least, error, where=better)
    return best, least


def _rounded(numbers: np.ndarray, scale: np.ndarray, top: int, out: np.ndarray | None = None) -> np.ndarray:
    """Whole numbers from `-top - 1` to `top`, as float32."""
    # Zeros, and what float32 can hardly tell from them, have no inverse.
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-37)
    out = np.multiply(numbers, inverse, out=out)
    np.rint(out, out=out)
    return np.clip(out, -top - 1, top, out=out)
