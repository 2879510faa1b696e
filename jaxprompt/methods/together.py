"""Several methods at once: a soft prompt and LoRA, say, each with a learning rate of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union

import jax
from pydantic import Field, create_model

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.methods.base import Method, Start, reads_text
from jaxprompt.types import Conditioning, Delta


def together_of(methods: Sequence[type[Method]]) -> type[Method]:
    """The method that is several of these."""
    union = Union[tuple(method.Options for method in methods)]  # noqa: UP007 (of a tuple)
    Together.Options = create_model(
        "TogetherOptions",
        __base__=options.Options,
        name=(Literal["together"], Field("together", description="several methods at once")),
        parts=(
            list[Annotated[union, Field(discriminator="name")]],
            Field(min_length=2, description="the methods, each {name: ..., and its options}"),
        ),
    )
    Together.table = {method.name: method for method in methods}
    return Together


@dataclass(frozen=True)
class Together:
    """Learns what its parts do: of each group, a part's parameters are under the part's name.

    Attributes:
      parts: by name.
      positions: those of the parts.
    """

    name: ClassVar[str] = "together"
    Options: ClassVar[type[options.Options]]
    table: ClassVar[dict[str, type[Method]]]
    fills_slots: ClassVar[bool] = True
    learns: ClassVar[str] = "what each of method.parts does"
    parts: dict[str, Method]
    positions: int

    @classmethod
    def build(cls, options: Any, soft_length: int, backbone) -> "Together":
        names = [part.name for part in options.parts]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"method.parts has {name!r} twice: leave one out")
        filling = [name for name in names if cls.table[name].fills_slots]
        if len(filling) > 1:
            raise InputError(
                f"method.parts has {' and '.join(filling)}, which would fill the same soft slots: keep one"
            )
        parts = {part.name: cls.table[part.name].build(part, soft_length, backbone) for part in options.parts}
        shapes = jax.eval_shape(
            lambda: {name: part.init(jax.random.key(0), Start(backbone, ("yes", "no"))) for name, part in parts.items()}
        )
        cls(parts, 0).combined({name: jax.eval_shape(part.apply, shapes[name]) for name, part in parts.items()})
        return cls(parts, sum(part.positions for part in parts.values()))

    @property
    def reads_text(self) -> bool:
        return any(map(reads_text, self.parts.values()))

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        found: dict[str, dict] = {}
        for number, (name, part) in enumerate(self.parts.items()):
            for group, parameters in part.init(jax.random.fold_in(key, number), start).items():
                found.setdefault(group, {})[name] = parameters
        return found

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        def own(name):
            return {group: parts[name] for group, parts in trainable.items() if name in parts}

        return self.combined({name: part.apply(own(name)) for name, part in self.parts.items()})

    def combined(self, conditionings: Mapping[str, Conditioning]) -> Conditioning:
        """One conditioning of several. Raises InputError for what two of them have."""
        found: dict[str, tuple[str, Any]] = {}
        for name, conditioning in conditionings.items():
            for field in dataclasses.fields(Conditioning):
                value = getattr(conditioning, field.name)
                if value is None:
                    continue
                if field.name == "deltas" and "deltas" in found:
                    value = _merged(found["deltas"], (name, value))
                elif field.name in found:
                    raise InputError(
                        f"method.parts has {found[field.name][0]} and {name}, which both give a {field.name}: keep one"
                    )
                found[field.name] = name, value
        return Conditioning(**{field: value for field, (_, value) in found.items()})


def _merged(first: tuple[str, Mapping], second: tuple[str, Mapping]) -> dict[str, Delta]:
    """Changes of the same weights, of which each may have another kind."""
    (one, found), (other, more) = first, second
    found = dict(found)
    for path, delta in more.items():
        parts = {field.name: getattr(delta, field.name) for field in dataclasses.fields(Delta)}
        given = {name: value for name, value in parts.items() if value is not None}
        known = found.get(path, Delta())
        twice = next((name for name in given if getattr(known, name) is not None), None)
        if twice is not None:
            raise InputError(f"method.parts has {one} and {other}, which both change {path} by {twice}: keep one")
        found[path] = known.replace(**given)
    return found


def parts_of(chosen: Any) -> list[Any]:
    """A method's options, or those of each of its parts; plain values or validated ones."""
    parts = chosen.get("parts") if isinstance(chosen, Mapping) else getattr(chosen, "parts", None)
    return list(parts) if isinstance(parts, Sequence) and not isinstance(parts, str) else [chosen]
