"""What a Hugging Face family is: a translation of its config, and one table of its weights."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping, Set
from typing import Any

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.models.layers import ACTIVATIONS

# No size is larger, so that all can be counted in 32 bits; no model is deeper.
_MOST = 2**31 - 1
_MOST_LAYERS = 10_000
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: Any) -> str:
    """Returns the repr of what config.json holds, cut where it is long."""
    return _SHORT.repr(value)


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter and where a checkpoint keeps it.

    Attributes:
      name: Hugging Face's name without the family's prefix; `{layer}` stands for the layer number.
      path: where the parameter lies in the tree, joined with `/`; those under `layers/` are stacked.
      transpose: the file holds `[in, out]` (GPT-2's Conv1D).
      part: (i, n): the parameter is the i-th of n equal parts of the stored first axis, after any transposition.
      block: the parts alternate in blocks of so many rows; 0: each is in one piece.
      rows: (first, total): the parameter is the rows from `first` on of the `total` stored ones; None: all.
    """

    name: str
    path: str
    transpose: bool = False
    part: tuple[int, int] = (0, 1)
    block: int = 0
    rows: tuple[int, int] | None = None

    def stored_rows(self, rows: int) -> int:
        """How long the stored first axis is, for a parameter of `rows` rows."""
        return self.rows[1] if self.rows is not None else rows * self.part[1]


# Where an encoder-decoder's files repeat the word embedding that both sides share.
SHARED_COPIES = tuple((f"{side}.embed_tokens.weight", "shared.weight") for side in ("encoder", "decoder"))


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
      name: the `model_type` in config.json.
      prefix: what task models put before the names of their base model's weights.
      translate: `(config.json as a dict, names of the stored weights without prefix) -> config`; raises InputError.
      weights: from the config to the table of weights; of these, a checkpoint must hold exactly those whose path
        exists in the configured model.
      ignored: regular expressions of stored names that are no weights of the backbone.
      renames: (old ending, today's ending) of names in checkpoints of earlier releases.
      tied_copy: the head's weight. Where config.json ties the head, a stored one must equal the word embedding.
      copies: (name, of what): names under which files repeat a weight. A copy must equal it, or stands for it where
        only the copy is stored.
      repeats: (name, of what): a weight of its own, unless it equals the other; then it counts as not stored.
      forced_eos_id: the `forced_eos_token_id` of configs that do not name one.
    """

    name: str
    prefix: str
    translate: Callable[[Mapping[str, Any], Set[str]], Any]
    weights: Callable[[Any], tuple[Weight, ...]]
    ignored: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    tied_copy: str = "lm_head.weight"
    copies: tuple[tuple[str, str], ...] = ()
    repeats: tuple[tuple[str, str], ...] = ()
    forced_eos_id: int | None = None

    def canonical(self, name: str) -> str:
        """Returns a stored name without prefix, in today's spelling."""
        name = name.removeprefix(self.prefix)
        for old, new in self.renames:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name


def weight_and_bias(name: str, path: str, **options: Any) -> tuple[Weight, Weight]:
    """Returns the rows of `name.weight` and `name.bias`; a transposition concerns the weight alone."""
    plain = {key: value for key, value in options.items() if key != "transpose"}
    return Weight(f"{name}.weight", f"{path}/weight", **options), Weight(f"{name}.bias", f"{path}/bias", **plain)


def setting(
    config: Mapping[str, Any], *names: str, default: Any, kind: type | tuple[type, ...] = int, most: int = _MOST
) -> Any:
    """Returns the first of `names` that config.json holds and that is not null, else `default`.

    Raises:
      InputError: it is not of `kind`, is an int below 1 or above `most`, or a float that is not finite in float32.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        is_number = kind in (int, float)
        if (isinstance(value, bool) and is_number) or not isinstance(value, (int, float) if kind is float else kind):
            wanted = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(
                kind, "an object"
            )
            raise InputError(f"config.json: {name!r} is {shown(value)}, expected {wanted}")
        if kind is int and not 1 <= value <= most:
            raise InputError(f"config.json: {name!r} is {shown(value)}, expected a positive integer up to {most}")
        # Of an int, too, that no float can hold.
        if kind is float and not abs(value) < 1e38:
            raise InputError(f"config.json: {name!r} is {shown(value)}, expected a finite float32 number")
        return value
    return default


def optional(config: Mapping[str, Any], name: str, default: Any, kind: type | tuple[type, ...] = int) -> Any:
    """As `setting`, for a name whose null means that there is none, not the default."""
    return None if name in config and config[name] is None else setting(config, name, default=default, kind=kind)


def layer_count(config: Mapping[str, Any], *names: str, default: int) -> int:
    """As `setting`, for a number of layers: of what a family says per layer there is a list."""
    return setting(config, *names, default=default, most=_MOST_LAYERS)


def norm_epsilon(config: Mapping[str, Any], name: str, default: float) -> float:
    """As `setting`, for what a norm adds to a variance; raises InputError if it is negative."""
    value = float(setting(config, name, default=default, kind=float))
    if value < 0:
        raise InputError(f"config.json: {name!r} is {value!r}, expected a number from 0 up (usually {default})")
    return value


def activation(config: Mapping[str, Any], name: str, default: str) -> str:
    """Returns the activation that config.json names; raises InputError for one that is not implemented."""
    return named_activation(setting(config, name, default=default, kind=str), name)


def named_activation(value: str, name: str) -> str:
    """Returns `value`, the activation of the setting `name`; raises InputError if it is not implemented."""
    if value not in ACTIVATIONS:
        raise InputError(
            f"config.json: {name} {shown(value)} is not implemented{did_you_mean(value[:100], ACTIVATIONS)}"
        )
    return value


def refuse(config: Mapping[str, Any], **only: Any) -> None:
    """Raises InputError if a feature is set to anything but the one value implemented here (or is not null)."""
    if config.get("quantization_config") is not None:
        what = shown(config["quantization_config"])
        raise InputError(
            f"config.json: quantization_config={what} is not implemented: use the model's unquantised files, with "
            "quantize set to int8 or int4 if they do not fit"
        )
    # Heads that were cut out one by one leave layers of different shapes.
    for name, value in {**only, "pruned_heads": {}}.items():
        if config.get(name) is not None and config[name] != value:
            raise InputError(f"config.json: {name}={shown(config[name])} is not implemented (implemented: {value!r})")


def token_id(config: Mapping[str, Any], name: str, default: int) -> int:
    """Returns a token id that config.json holds; raises InputError if it is no whole number from 0 up."""
    value = default if config.get(name) is None else config[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise InputError(f"config.json: {name!r} is {shown(value)}, expected a token id")
    return value


def split_heads(hidden_size: int, num_heads: int) -> int:
    """Returns `hidden_size / num_heads`; raises InputError if it is no integer."""
    if hidden_size % num_heads:
        raise InputError(f"config.json: hidden size {hidden_size} is not a multiple of {num_heads} attention heads")
    return hidden_size // num_heads


def head_kind(config: Mapping[str, Any], *, tied_by_default: bool, stored: bool) -> str:
    """Returns how a decoder's head is kept: "tied", "own", or "none" if untied and not `stored`."""
    if setting(config, "tie_word_embeddings", default=tied_by_default, kind=bool):
        return "tied"
    return "own" if stored else "none"
