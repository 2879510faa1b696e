"""A frozen weight and a learned change of what it gives: a value that multiplies as a weight does."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import struct

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.types import Delta


class Adapted(struct.PyTreeNode):
    """What `layers.linear` multiplies with in place of a weight; of stacked layers, with a leading axis throughout."""

    base: Any
    delta: Delta

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.base.shape


def adapted(params: Any, deltas: Mapping[str, Delta] | None) -> Any:
    """Returns parameters with changes of some of their weights, by the names of `layer_weights`; pure."""
    if not deltas:
        return params
    return _adapted(params, {tuple(path.split("/")): delta for path, delta in deltas.items()})


def _adapted(params, deltas):
    found = dict(params)
    for name in {path[0] for path in deltas}:
        if () in (inside := {path[1:]: delta for path, delta in deltas.items() if path[0] == name}):
            found[name] = Adapted(params[name], inside[()])
        elif name == "layers" and "0" in params[name]:
            # Layers with arrays of their own: each gets its part.
            found[name] = {
                number: _adapted(layer, jax.tree.map(lambda x, at=int(number): x[at], inside))
                for number, layer in params[name].items()
            }
        else:
            found[name] = _adapted(params[name], inside)
    return found


def layer_weights(params: Any) -> dict[str, tuple[int, int, int]]:
    """The weights of the layers, by names such as `layers/attention/q/weight`: layers, outputs, inputs.

    They are the same whether the layers are stacked or apart. The parameters may be shapes.
    """
    found: dict[str, tuple[int, int, int]] = {}

    def visit(tree, path, apart=()):
        for name, part in tree.items():
            here = (*path, name)
            if name == "layers" and "0" in part:
                visit(part["0"], here, (len(part),))
            elif name == "weight" and "layers" in path:
                found["/".join(here)] = (*apart, *part.shape)
            elif isinstance(part, Mapping):
                visit(part, here, apart)

    visit(params, ())
    # A norm's weights, stacked, have two axes.
    return {path: shape for path, shape in found.items() if len(shape) == 3}


def targets(params: Any, names: list[str]) -> dict[str, tuple[int, int, int]]:
    """The weights of `layer_weights` whose layer has one of these names, such as q or down. Raises InputError for none."""
    weights = layer_weights(params)
    known = sorted({path.split("/")[-2] for path in weights})
    for name in names:
        if name not in known:
            raise InputError(f"method.targets has {name!r}, which this model has not{did_you_mean(name, known)}")
    return {path: shape for path, shape in weights.items() if path.split("/")[-2] in names}


def check_deltas(deltas: Mapping[str, Delta] | None, params: Any, ref: str) -> None:
    """Raises InputError for changes of weights that a model, called `ref`, has not, or has in other shapes."""
    weights = layer_weights(params) if deltas else {}
    for path, delta in (deltas or {}).items():
        if path not in weights:
            raise InputError(f"the prompt changes {path!r}, which {ref!r} has not: use the backbone it was learned for")
        layers, outputs, inputs = weights[path]
        rank = None if delta.a is None else np.shape(delta.a)[1]
        want = {"a": (layers, rank, inputs), "b": (layers, outputs, rank), "factor": (layers, outputs)}
        for name, shape in (want | {"in_factor": (layers, inputs)}).items():
            array = getattr(delta, name)
            if array is not None and np.shape(array) != shape:
                raise InputError(
                    f"the prompt's change of {path!r} has {name} {list(np.shape(array))}, {ref!r} needs {list(shape)}: use the "
                    "backbone it was learned for"
                )
