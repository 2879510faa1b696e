"""Prompts of several owners in one batch: each token sees its owner's."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxprompt.errors import InputError
from jaxprompt.machine.members import padded
from jaxprompt.text.encoded import Encoded, int32
from jaxprompt.types import Conditioning, Delta, Generators, Inputs, Prefix

_TOGETHER = ("soft", "prefix", "source_prefix", "change", "generator", "deltas")


def joined(parts: Sequence[Conditioning], names: Sequence[str]) -> Conditioning:
    """One conditioning of several owners: their soft rows one behind the other, and with their owners what is by token.

    Raises InputError, by the owner's name, for what adds to the weights or is anything else that a batch has once.
    """
    for name, part in zip(names, parts, strict=True):
        shifted = next((path for path, delta in (part.deltas or {}).items() if delta.shift is not None), None)
        if shifted is not None:
            raise InputError(
                f"the prompt of {name!r} adds to {shifted!r}, which a batch has for all its examples: use it by itself"
            )
        for field in dataclasses.fields(part):
            if field.name not in _TOGETHER and getattr(part, field.name) is not None:
                raise InputError(
                    f"the prompt of {name!r} holds {field.name}, which a batch has for all its examples: use it by itself"
                )
    soft = [part.soft for part in parts if part.soft is not None]
    return Conditioning(
        soft=jnp.concatenate(soft) if soft else None,
        prefix=_side_by_side([part.prefix for part in parts]),
        source_prefix=_side_by_side([part.source_prefix for part in parts]),
        change=_changes([part.change for part in parts]),
        generator=_generators(parts),
        deltas=_deltas([part.deltas or {} for part in parts]),
    )


def _side_by_side(prefixes: Sequence[Prefix | None]) -> Prefix | None:
    there = [(owner, prefix) for owner, prefix in enumerate(prefixes) if prefix is not None]
    if not there:
        return None
    lengths = tuple(0 if prefix is None else prefix.length for prefix in prefixes)
    counts = [prefix.keys.shape[1] for _, prefix in there]
    return Prefix(
        keys=jnp.concatenate([prefix.keys for _, prefix in there], axis=1),
        values=jnp.concatenate([prefix.values for _, prefix in there], axis=1),
        length=max(lengths),
        owners=jnp.asarray(np.repeat([owner for owner, _ in there], counts)),
        places=jnp.asarray(np.concatenate([np.arange(count) for count in counts])),
        lengths=lengths,
    )


def _changes(
    changes: Sequence[Float[Array, "positions embed"] | None],
) -> Float[Array, "owners positions embed"] | None:
    """Of each owner, with zeros behind the shorter ones: a longer text goes on unchanged."""
    there = [change for change in changes if change is not None]
    if not there:
        return None
    nothing = jnp.zeros((0, there[0].shape[1]))
    return padded(*(nothing if change is None else change for change in changes))


def _generators(parts: Sequence[Conditioning]) -> Generators | None:
    lengths = [0 if part.soft is None else len(part.soft) for part in parts]
    there = [(sum(lengths[:owner]), part.generator) for owner, part in enumerate(parts) if part.generator is not None]
    if not there:
        return None
    starts, generators = zip(*there, strict=True)
    return Generators(generators, starts)


def _deltas(parts: Sequence[Mapping[str, Delta]]) -> dict[str, Delta] | None:
    paths = dict.fromkeys(path for part in parts for path in part)
    return {path: _delta([part.get(path) for part in parts]) for path in paths} or None


def _delta(of_owners: Sequence[Delta | None]) -> Delta:
    """The paths of all owners side by side, and their factors, 1 where one has none."""
    ranked = [(owner, delta) for owner, delta in enumerate(of_owners) if delta is not None and delta.a is not None]

    def factors(name):
        own = [None if delta is None else getattr(delta, name) for delta in of_owners]
        like = next((factor for factor in own if factor is not None), None)
        if like is None:
            return None
        return jnp.stack([jnp.ones_like(like) if factor is None else factor for factor in own], axis=1)

    return Delta(
        a=jnp.concatenate([delta.a for _, delta in ranked], axis=1) if ranked else None,
        b=jnp.concatenate([delta.b for _, delta in ranked], axis=2) if ranked else None,
        factor=factors("factor"),
        in_factor=factors("in_factor"),
        owners=tuple(owner for owner, delta in ranked for _ in range(delta.a.shape[1])),
    )


def moved(ids: Sequence[int], rows_before: int, vocab_size: int) -> Int32[np.ndarray, "length"]:
    """Ids whose soft rows are numbered behind those of the owners before theirs."""
    ids = int32(ids)
    return np.where(ids >= vocab_size, ids + np.int32(rows_before), ids)


def of_owner(example: Encoded, owner: int, rows_before: int, vocab_size: int) -> Encoded:
    """An example of one owner, its soft rows numbered behind those of the owners before it."""
    ids, source = (
        None if part is None else moved(part, rows_before, vocab_size) for part in (example.ids, example.source)
    )
    return dataclasses.replace(example, ids=ids, source=source, owner=owner)


def in_one_row(parts: Sequence[Sequence[int]], starts: Sequence[int]) -> Inputs | None:
    """One sequence of each owner, none of which sees another, as one row; None where all are empty.

    Args:
      starts: the position of the first id of each.
    """
    lengths = [len(ids) for ids in parts]
    if not sum(lengths):
        return None
    owners = np.repeat(np.arange(len(parts)), lengths)[None]
    positions = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    ids = np.concatenate([np.asarray(ids, int) for ids in parts])
    row = (jnp.asarray(array, jnp.int32) for array in (ids[None], positions[None], owners + 1))
    return Inputs(*row, owners=jnp.asarray(owners, jnp.int32))
