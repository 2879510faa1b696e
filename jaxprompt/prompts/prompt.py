"""A learned prompt as a value: what the backbone is conditioned on, a head, and how to use them."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.models.adapted import check_deltas
from jaxprompt.models.fits import check_gated, check_late
from jaxprompt.prompts.description import check_description
from jaxprompt.types import Conditioning, Delta, Gated, Generator, Mixture, Prefix

_PREFIX_AXES = ("layers", "prefix", "kv_heads", "head_dim")
# Fields of a conditioning that are one array each.
_ROWS = ("soft", "change")
# What a generator is, and the axes of its arrays, by what their names begin with.
_GENERATORS = {
    "generator": (Generator, {"down": ("hidden", "embed"), "bias": ("hidden",), "up": ("prompt", "embed", "hidden")}),
    "mixture": (
        Mixture,
        {
            "prompts": ("prompts", "prompt", "embed"),
            "down": ("hidden", "embed"),
            "up": ("embed", "hidden"),
            "scale": ("embed",),
            "bias": ("embed",),
            "temperature": ("1",),
        },
    ),
}
_AXES = {
    "soft": ("prompt", "embed"),
    "change": ("positions", "embed"),
    **{f"{kind}.{name}": of for kind, (_, axes) in _GENERATORS.items() for name, of in axes.items()},
    **dict.fromkeys(("keys", "values", "source_keys", "source_values"), _PREFIX_AXES),
    "head.weight": ("outputs", "embed"),
    "head.bias": ("outputs",),
}

# What belongs to a path: what names of its arrays begin with (behind it stand the path, a dot and the array's own name),
# the field of a conditioning, what it is, and the axes of its arrays, of whose first two there are both or none.
_BY_PATH = {
    "delta": (
        "deltas",
        Delta,
        {
            "a": ("layers", "rank", "in"),
            "b": ("layers", "out", "rank"),
            "factor": ("layers", "out"),
            "in_factor": ("layers", "in"),
            # Those of its parameter.
            "shift": ("...",),
        },
    ),
    "gated": ("gated", Gated, {"rows": ("layers", "prefix", "embed"), "gate": ("layers", "heads")}),
}


def _axes_of(name: str) -> tuple[str, ...] | None:
    """The axes of an array by its name in files; None: there is none of that name."""
    kind, _, rest = name.partition(".")
    return _BY_PATH[kind][2].get(rest.rpartition(".")[2]) if kind in _BY_PATH else _AXES.get(name)


@dataclass(frozen=True)
class Prompt:
    """What training learned, folded, with what is needed to use it.

    Attributes:
      conditioning: numpy arrays, fp32.
      head: the head's arrays, if there is one: `weight [outputs, embed]`, `bias [outputs]`.
      info: method, template, objective, labels, backbone reference and fingerprint, tokenizer.
    """

    conditioning: Conditioning = field(default_factory=Conditioning)
    head: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict = field(default_factory=dict)

    @property
    def soft(self) -> np.ndarray | None:
        """The soft prompt `[prompt, embed]`, if there is one."""
        return self.conditioning.soft

    @property
    def soft_layer(self) -> int | None:
        """The layer ahead of which the soft rows enter; None: as the words do."""
        return self.conditioning.soft_layer

    @property
    def prefix(self) -> Prefix | None:
        """The prefix, if there is one; of an encoder-decoder, the decoder's."""
        return self.conditioning.prefix

    @property
    def source_prefix(self) -> Prefix | None:
        """The prefix of the encoder of an encoder-decoder."""
        return self.conditioning.source_prefix

    @property
    def deltas(self) -> dict[str, Delta] | None:
        """The changes of weights, by their paths, if there are any."""
        return self.conditioning.deltas

    @property
    def gated(self) -> dict[str, Gated] | None:
        """The rows behind a gate, by the paths of their attentions, if there are any."""
        return self.conditioning.gated

    @property
    def prefix_lengths(self) -> set[int]:
        """How many keys a layer has of what is learned for each layer."""
        axes = {name: _axes_of(name) for name in self.arrays}
        return {self.arrays[name].shape[of.index("prefix")] for name, of in axes.items() if of and "prefix" in of}

    @property
    def change(self) -> np.ndarray | None:
        """What is added to the embeddings of the input text's tokens `[positions, embed]`, if there is anything."""
        return self.conditioning.change

    @property
    def generator(self) -> Generator | Mixture | None:
        """What the soft rows get of the example that they stand in, if they get anything."""
        return self.conditioning.generator

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The conditioning's arrays by the names that files give them: `soft`, `keys`, `values`, `source_keys` ..."""
        return to_arrays(self.conditioning)

    def check_itself(self) -> None:
        """Raises InputError for what no backbone could use.

        That is an array of another type, number of axes or size than its kind has, numbers that are not finite, or a
        description (`info`) of other types.
        """
        check_description(self.info)
        arrays = {**self.arrays, **{f"head.{name}": array for name, array in self.head.items()}}
        for name, array in arrays.items():
            axes = _axes_of(name)
            if axes is None:
                raise InputError(f"the prompt has an unknown array {name}: it may have {', '.join(_AXES)}")
            shape, kind = np.shape(array), getattr(array, "dtype", type(array).__name__)
            floats = not isinstance(kind, str) and jnp.issubdtype(kind, jnp.floating)
            if not floats or (len(shape) != len(axes) and "..." not in axes) or 0 in shape:
                raise InputError(f"the prompt's {name} has shape {shape} of {kind}: it is floats [{', '.join(axes)}]")
            if not np.isfinite(array).all():
                raise InputError(
                    f"the prompt's {name} holds numbers that are not finite: learn it again{self._named()}"
                )
        for one, other, count in (
            ("keys", "values", 4),
            ("source_keys", "source_values", 4),
            ("head.weight", "head.bias", 1),
        ):
            sizes = [np.shape(arrays[name])[:count] for name in (one, other) if name in arrays]
            if len(sizes) == 1 or len(set(sizes)) > 1:
                raise InputError(
                    f"the prompt has {one} without {other} of the same size: learn it again{self._named()}"
                )
        if self.generator is not None:
            # Each axis has one size, the soft rows' axes too.
            sizes: dict[str, set[int]] = {}
            for name in ("soft", *(name for name in arrays if name.partition(".")[0] in _GENERATORS)):
                for axis, size in zip(_axes_of(name), np.shape(arrays.get(name, np.zeros((0, 0)))), strict=True):
                    sizes.setdefault(axis, set()).add(size)
            if any(len(found) > 1 for found in sizes.values()) or sizes.get("1", {1}) != {1}:
                raise InputError(f"the prompt has a generator of other sizes than its soft rows{self._named()}")
        for path, delta in (self.deltas or {}).items():
            ranks = [None if part is None else np.shape(part)[axis] for part, axis in ((delta.a, 1), (delta.b, 2))]
            if ranks[0] != ranks[1]:
                raise InputError(f"the prompt's change of {path} has a without b of the same rank{self._named()}")
        for path, gated in (self.gated or {}).items():
            if np.shape(gated.rows)[:1] != np.shape(gated.gate)[:1]:
                raise InputError(f"the prompt's rows for {path} have gates for another number of layers{self._named()}")

    def check(self, backbone) -> None:
        """Raises InputError when the prompt was learned for another backbone, or could be used with none."""
        self.check_itself()
        for rows in (self.soft, self.change):
            if rows is not None and rows.shape[-1] != backbone.soft_size:
                raise InputError(
                    f"the prompt is {rows.shape[-1]} wide, the backbone {backbone.ref!r} takes {backbone.soft_size} "
                    f"wide ones: use the backbone it was learned for{self._named()}"
                )
        if self.prefix is not None or self.source_prefix is not None:
            for whose, part, shape in (
                ("prefix", self.prefix, backbone.prefix_shape),
                ("encoder's prefix", self.source_prefix, backbone.source_prefix_shape),
            ):
                have = None if part is None else (part.keys.shape[0], *part.keys.shape[2:])
                if have != shape:
                    raise InputError(
                        f"the {whose} has layers, heads, head size {have}, the backbone {backbone.ref!r} has {shape}: use "
                        f"the backbone it was learned for{self._named()}"
                    )
        if self.head and self.head["weight"].shape[1] != backbone.hidden_size:
            raise InputError(
                f"the prompt's head is {self.head['weight'].shape[1]} wide, the backbone {backbone.ref!r} is "
                f"{backbone.hidden_size}: use the backbone it was learned for{self._named()}"
            )
        check_deltas(self.deltas, backbone.params, backbone.ref)
        check_gated(self.gated, backbone.config, backbone.ref)
        check_late(self.soft_layer, backbone.config, backbone.ref)
        self.check_origin(backbone)

    def check_origin(self, backbone) -> None:
        """Raises InputError when the prompt says that it was learned for another backbone or with another tokenizer."""
        known = self.info.get("backbone", {}).get("fingerprint")
        if known and known != backbone.fingerprint:
            raise InputError(
                f"the prompt was learned for another backbone than {backbone.ref!r} (fingerprint {known}, not "
                f"{backbone.fingerprint}): use the backbone it was learned for{self._named()}"
            )

        known = self.info.get("tokenizer")
        if known and backbone.tokenizer_fingerprint not in (None, known):
            raise InputError(
                f"the prompt was learned with another tokenizer than that of {backbone.ref!r} (fingerprint {known}, not "
                f"{backbone.tokenizer_fingerprint}): put the tokenizer back that the backbone had then{self._named()}"
            )

    def _named(self) -> str:
        ref = self.info.get("backbone", {}).get("ref")
        return f", {ref!r}" if ref else ""


def to_arrays(conditioning: Conditioning) -> dict[str, np.ndarray]:
    """A conditioning's arrays by name: a prefix gives `keys` and `values`, the encoder's with `source_` in front."""
    rows = {name: getattr(conditioning, name) for name in _ROWS}
    found = {name: array for name, array in rows.items() if array is not None}
    for side in ("", "source_"):
        prefix = getattr(conditioning, f"{side}prefix")
        if prefix is not None:
            found |= {f"{side}keys": prefix.keys, f"{side}values": prefix.values}
    for kind, (made, axes) in _GENERATORS.items():
        if isinstance(conditioning.generator, made):
            found |= {f"{kind}.{name}": getattr(conditioning.generator, name) for name in axes}
    for kind, (name, _, axes) in _BY_PATH.items():
        for path, value in (getattr(conditioning, name) or {}).items():
            parts = {part: getattr(value, part) for part in axes}
            found |= {f"{kind}.{path}.{part}": array for part, array in parts.items() if array is not None}
    return found


def from_arrays(arrays: dict[str, np.ndarray], start: int, soft_layer: int | None = None) -> Conditioning:
    """The conditioning of arrays as `to_arrays` names them.

    Args:
      start: the position at which the text starts.
      soft_layer: the layer ahead of which the soft rows enter; None: as the words do.

    Raises ValueError for a name that it does not know, or keys without values.
    """
    arrays = dict(arrays)
    parts = {name: arrays.pop(name, None) for name in _ROWS}
    for side in ("", "source_"):
        if f"{side}keys" in arrays:
            keys, values = arrays.pop(f"{side}keys"), arrays.pop(f"{side}values", None)
            if values is None or values.shape != keys.shape:
                raise ValueError(f"{side}keys without {side}values of the same shape")
            parts[f"{side}prefix"] = Prefix(keys, values, length=0 if side else start)
    for kind, (made, axes) in _GENERATORS.items():
        own = {name: arrays.pop(f"{kind}.{name}") for name in axes if f"{kind}.{name}" in arrays}
        if own:
            if len(own) < len(axes):
                raise ValueError(f"a {kind} of {', '.join(own)} alone")
            parts["generator"] = made(**own)
    for kind, (name, made, axes) in _BY_PATH.items():
        by_path: dict[str, dict] = {}
        for full in [full for full in arrays if full.startswith(f"{kind}.")]:
            path, _, part = full.removeprefix(f"{kind}.").rpartition(".")
            if part not in axes or not path:
                raise ValueError(f"unknown array {full}")
            by_path.setdefault(path, {})[part] = arrays.pop(full)
        one, other, *_ = axes
        if any((one in of) != (other in of) for of in by_path.values()):
            raise ValueError(f"{kind} arrays of which there is {one} without {other}")
        if by_path:
            parts[name] = {path: made(**of) for path, of in by_path.items()}
    if arrays:
        raise ValueError(f"unknown arrays {', '.join(arrays)}")
    return Conditioning(**parts, soft_layer=soft_layer)
