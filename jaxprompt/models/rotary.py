"""Rotary position embedding and its frequency scalings (Su et al. 2021, arXiv:2104.09864)."""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprompt.errors import InputError

KINDS = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")
# Longer heads are a mistake, and their frequencies would not fit into memory.
_MOST_HEAD_DIM = 65536


@dataclasses.dataclass(frozen=True)
class Rotary:
    """All that the model needs of a rotary variant.

    Attributes:
      frequencies: radians per position of each pair; elements of a head beyond the pairs are left alone.
      scale: factor on the cosines and sines (YaRN's attention factor).
      interleaved: pairs are neighbours (GPT-J), not a half apart.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    interleaved: bool = False

    def angles(self, positions: Int[Array, "rows seq"]) -> Float[Array, "2 rows seq half"]:
        """Returns cosines and sines, float32."""
        angles = positions[..., None].astype(jnp.float32) * np.asarray(self.frequencies, np.float32)
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)]) * self.scale


def rotate(
    x: Float[Array, "rows seq heads head_dim"], angles: Float[Array, "2 rows seq half"], interleaved: bool = False
) -> Float[Array, "rows seq heads head_dim"]:
    """Rotates pair i by its angle; computed in float32.

    Pair i is the elements i and i + half, or 2i and 2i + 1 when `interleaved`. Elements from 2 * half on stay.
    """
    cos, sin = angles[:, :, :, None]
    half = angles.shape[-1]
    turned, rest = x[..., : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    pair = first * cos - second * sin, second * cos + first * sin
    turned = jnp.stack(pair, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    turned = turned.astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


def rotary_from(parameters: Mapping[str, Any], head_dim: int, max_positions: int) -> Rotary:
    """Translates Hugging Face's rope parameters; formulas as in transformers' `modeling_rope_utils.py`.

    Args:
      parameters: `rope_type` (default, linear, llama3, yarn, dynamic, longrope), `rope_theta`,
        `partial_rotary_factor` and what the type needs. `dynamic` changes nothing up to the model's own maximum, and
        the backbone refuses longer input; `longrope` is its short form, for which see `original_positions`.
      head_dim: of which `partial_rotary_factor`, an even number, is rotated.
      max_positions: stands in for a missing `original_max_position_embeddings`.

    Raises:
      InputError: another type, or a number that is missing or malformed.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in KINDS:
        raise InputError(f"config.json: rope_type {kind!r:.100} is not implemented (implemented: {', '.join(KINDS)})")

    def number(name: str, default: float | None = None) -> float:
        value = parameters.get(name)
        value = default if value is None else value
        if not _is_number(value):
            raise InputError(
                f"config.json: rope_type {kind!r} needs a finite number for {name!r}, and has {reprlib.repr(value)}"
            )
        return value

    rotated = int(head_dim * number("partial_rotary_factor", 1.0))
    if rotated % 2 or not 0 < rotated <= head_dim:
        raise InputError(
            f"config.json: rotary positions of {rotated} of {head_dim} head elements: the number must be even, and no larger"
        )
    if head_dim > _MOST_HEAD_DIM:
        raise InputError(f"config.json: rotary positions of heads of {head_dim}, expected at most {_MOST_HEAD_DIM}")
    theta = number("rope_theta", 10000.0)
    for name, least in (("rope_theta", 0), ("factor", 0), ("original_max_position_embeddings", 1)):
        if parameters.get(name) is not None and not number(name) > least:
            raise InputError(
                f"config.json: rope_type {kind!r} has {name}={parameters[name]!r}: expected more than {least}"
            )
    try:
        with np.errstate(all="ignore"):
            frequencies, scale = _frequencies(kind, parameters, number, rotated, theta, max_positions)
            rotary = Rotary(tuple(float(frequency) for frequency in frequencies.astype(np.float32)), float(scale))
    except ArithmeticError:
        rotary = Rotary((math.nan,))
    if not np.isfinite((*rotary.frequencies, rotary.scale)).all():
        given = {name: value for name, value in parameters.items() if value is not None}
        raise InputError(
            f"config.json: the rotary settings {reprlib.repr(given)} give frequencies that are not finite: "
            "use those of the original checkpoint"
        )
    return rotary


def _is_number(value: Any) -> bool:
    # Of integers, too, those that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _frequencies(
    kind: str,
    parameters: Mapping[str, Any],
    number: Callable[..., float],
    rotated: int,
    theta: float,
    max_positions: int,
) -> tuple[np.ndarray, float]:
    """Returns the frequencies of `rotary_from`, and the factor on cosines and sines."""
    # float32 in the order of the reference, so that the angles of late positions agree with it.
    periods = np.float32(theta) ** (np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated))
    frequencies = (1.0 / periods).astype(np.float32)
    scale = 1.0
    if kind == "linear":
        frequencies = frequencies / np.float32(number("factor"))
    elif kind in ("llama3", "yarn"):
        original = number("original_max_position_embeddings", max_positions)
        factor = number("factor")
        if kind == "llama3":
            frequencies = _llama3(frequencies, factor, number("low_freq_factor"), number("high_freq_factor"), original)
        else:
            fast, slow = number("beta_fast", 32.0), number("beta_slow", 1.0)
            if not (fast > 0 and slow > 0):
                raise InputError(
                    f"config.json: rope_type 'yarn' has beta_fast={fast}, beta_slow={slow}: expected more than 0"
                )
            frequencies = _yarn(periods, theta, factor, fast, slow, original, _truncates(parameters))
            mscale, mscale_all = number("mscale", 0.0), number("mscale_all_dim", 0.0)
            usual = _yarn_scale(factor, mscale) / _yarn_scale(factor, mscale_all) if mscale and mscale_all else None
            scale = number("attention_factor", usual if usual is not None else _yarn_scale(factor, 1.0))
    elif kind == "longrope":
        original = number("original_max_position_embeddings")
        factors = parameters.get("short_factor")
        if not isinstance(factors, list) or len(factors) != len(periods) or not all(map(_is_number, factors)):
            raise InputError(f"config.json: rope_type 'longrope' needs {len(periods)} numbers for 'short_factor'")
        frequencies = 1.0 / (np.asarray(factors, np.float32) * periods)
        factor = number("factor", max_positions / original)
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        scale = number("attention_factor", usual)
    return frequencies, scale


def original_positions(parameters: Mapping[str, Any], max_positions: int) -> int:
    """Returns how long an input may be: under longrope, only as long as its short form is meant for.

    Beyond that the reference changes the frequencies of all positions, those already cached included.
    """
    original = parameters.get("original_max_position_embeddings")
    longrope = parameters.get("rope_type", parameters.get("type")) == "longrope"
    return min(max_positions, int(original)) if longrope and original else max_positions


def _llama3(frequencies, factor, low, high, original):
    """Llama 3.1: divides the slow frequencies, keeps the fast ones, blends between."""
    wavelengths = 2 * math.pi / frequencies
    blend = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * frequencies / factor + blend * frequencies


def _yarn(periods, theta, factor, fast, slow, original, truncate):
    """YaRN (Peng et al. 2023, arXiv:2309.00071): interpolates the slow dimensions, keeps the fast ones."""
    dim = 2 * len(periods)

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(len(periods)) - low) / (high - low or 0.001), 0.0, 1.0)
    return ramp / (factor * periods) + (1 - ramp) / periods


def _truncates(parameters: Mapping[str, Any]) -> bool:
    value = parameters.get("truncate", True)
    if not isinstance(value, bool):
        raise InputError(f"config.json: rope_type 'yarn' has truncate={reprlib.repr(value)}: expected true or false")
    return value


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
