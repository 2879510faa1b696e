"""What is learned, put where a layer finds it: among its frozen parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.models.quantized import Quantized
from jaxprompt.types import Conditioning, Delta


class Adapted(struct.PyTreeNode):
    """A frozen weight and a learned change of what it gives, which `layers.linear` multiplies with in its place.

    Of stacked layers, with a leading axis throughout.
    """

    base: Any
    delta: Delta

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.base.shape


class LastLayers(struct.PyTreeNode):
    """Among stacked parameters, something that only the last layers have.

    Attributes:
      parts: arrays with a leading axis of those layers.
    """

    parts: Any

    def first(self, num_layers: int) -> int:
        """The first layer that has it."""
        return num_layers - jax.tree.leaves(self.parts)[0].shape[0]

    def of(self, layer: Any, num_layers: int) -> Any:
        """That of one of these layers, whose number may be traced."""
        at = layer - self.first(num_layers)
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, at, keepdims=False), self.parts)


def adapted(params: Any, conditioning: Conditioning) -> Any:
    """Returns parameters with what a conditioning changes of them (by the names of `learnable`) or adds; pure."""
    changes: dict[tuple[str, ...], Any] = {
        tuple(path.split("/")): delta for path, delta in (conditioning.deltas or {}).items()
    }
    for path, gated in (conditioning.gated or {}).items():
        changes[(*path.split("/"), "gated")] = LastLayers(gated)
    if conditioning.change is not None:
        changes["word", "change"] = conditioning.change
    if conditioning.generator is not None:
        changes["word", "generator"] = conditioning.generator
    return _adapted(params, changes) if changes else params


def _adapted(params, changes, parent=""):
    found = dict(params)
    for name in {path[0] for path in changes}:
        if () in (inside := {path[1:]: change for path, change in changes.items() if path[0] == name}):
            change = inside[()]
            found[name] = _changed(params[name], change, parent) if isinstance(change, Delta) else change
        elif name == "layers" and "0" in params[name]:
            # Layers with arrays of their own: each gets its part.
            of = _by_layer(inside, len(params[name]))
            found[name] = {number: _adapted(layer, of[int(number)]) for number, layer in params[name].items()}
        else:
            found[name] = _adapted(params[name], inside, name)
    return found


def _changed(base, delta: Delta, parent: str):
    if delta.shift is not None:
        # A norm computes in float32, where small changes of its weights are not lost.
        kind = jnp.float32 if _is_norm(parent) else base.dtype
        base, delta = (base.astype(jnp.float32) + delta.shift).astype(kind), delta.replace(shift=None)
    return Adapted(base, delta) if jax.tree.leaves(delta) else base


def _is_norm(name: str) -> bool:
    return name.endswith("norm")


def _leaves(params: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """All parameters by name: the leading axis of layers that stand apart, and one of them. They may be shapes."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}

    def visit(tree, path, apart=()):
        for name, part in tree.items():
            here = (*path, name)
            if name == "layers" and "0" in part:
                visit(part["0"], here, (len(part),))
            elif isinstance(part, Mapping):
                visit(part, here, apart)
            else:
                found["/".join(here)] = apart, part

    visit(params, ())
    return found


def _by_layer(changes, num_layers: int) -> list[dict]:
    """What there is of each layer."""
    found: list[dict] = [{} for _ in range(num_layers)]
    for path, change in changes.items():
        whole, first = (change.parts, change.first(num_layers)) if isinstance(change, LastLayers) else (change, 0)
        leaves, structure = jax.tree.flatten(whole)
        # All at once: on the way back a layer taken by itself would have a gradient as large as the stack.
        layers = zip(*(jax.lax.split(jnp.asarray(leaf), (1,) * len(leaf)) for leaf in leaves), strict=True)
        for layer, parts in enumerate(layers, first):
            found[layer][path] = structure.unflatten([jnp.squeeze(part, 0) for part in parts])
    return found


def layer_weights(params: Any) -> dict[str, tuple[int, int, int]]:
    """The weights of the layers, by names such as `layers/attention/q/weight`: layers, outputs, inputs.

    They are the same whether the layers are stacked or apart. The parameters may be shapes.
    """
    shapes = {path: (*apart, *leaf.shape) for path, (apart, leaf) in _leaves(params).items()}
    # A norm's weights, stacked, have two axes.
    return {
        path: shape
        for path, shape in shapes.items()
        if path.endswith("/weight") and "layers" in path.split("/") and len(shape) == 3
    }


def learnable(params: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters but quantised ones, by names as in `layer_weights`; those of layers are stacked."""
    return {
        path: (*apart, *leaf.shape)
        for path, (apart, leaf) in _leaves(params).items()
        if not isinstance(leaf, Quantized)
    }


def biases(params: Any) -> dict[str, tuple[int, ...]]:
    """Those of `learnable` that are biases of products and norms, and of the head."""
    return {path: shape for path, shape in learnable(params).items() if path.endswith(("/bias", "head_bias"))}


def norms(params: Any) -> dict[str, tuple[int, ...]]:
    """Those of `learnable` that are weights and biases of norms."""
    return {path: shape for path, shape in learnable(params).items() if _is_norm(path.rpartition("/")[0])}


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
    weights, plain = (layer_weights(params), learnable(params)) if deltas else ({}, {})
    for path, delta in (deltas or {}).items():
        if path not in weights and path not in plain:
            raise InputError(f"the prompt changes {path!r}, which {ref!r} has not: use the backbone it was learned for")
        if delta.shift is not None and path not in plain:
            raise InputError(
                f"the prompt adds to {path!r}, which {ref!r} keeps in few bits: load it without quantize, as it was learned"
            )
        layers, outputs, inputs = weights.get(path, (None,) * 3)
        rank = None if delta.a is None else np.shape(delta.a)[1]
        want = {"a": (layers, rank, inputs), "b": (layers, outputs, rank), "factor": (layers, outputs)}
        for name, shape in (want | {"in_factor": (layers, inputs), "shift": plain.get(path)}).items():
            array = getattr(delta, name)
            if array is not None and np.shape(array) != shape:
                raise InputError(
                    f"the prompt's change of {path!r} has {name} {list(np.shape(array))}, {ref!r} needs {list(shape)}: use the "
                    "backbone it was learned for"
                )
