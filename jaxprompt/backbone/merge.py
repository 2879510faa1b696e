"""A model folder with learned changes of weights in its weights, as any program reads it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxprompt.backbone.form import described
from jaxprompt.errors import InputError
from jaxprompt.machine.files import whole_folder
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.models import build
from jaxprompt.types import Delta
from jaxprompt.weights.loader import Stored, find_params, layer_names
from jaxprompt.weights.parts import views
from jaxprompt.weights.reference import resolve
from jaxprompt.weights.safetensors_file import open_tensors, write_tensors
from jaxprompt.weights.source import open_source

# What belongs to a model beside its weights: settings and tokenizers, and no code.
_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def write_merged(ref: str, deltas: Mapping[str, Delta], out: Path) -> dict[str, int]:
    """Copies a model's folder, its weights changed; every tensor keeps its name, shape and type.

    Args:
      ref: a folder of Hugging Face's, or a hub id.
      deltas: numpy arrays, as a prompt of this model has them.
      out: a folder that is not there yet.

    Returns:
      How many tensors are changed, and how many there are.

    Raises:
      InputError: a model that is no folder of safetensors, a folder that is there or cannot be written, or a weight
        that its type cannot hold any more.
    """
    folder = resolve(ref)
    if not folder.is_dir():
        raise InputError(f"{ref!r} is no folder of safetensors, which a merged model is written as: name its original")
    with whole_folder(out) as partial:
        changed, count = _changed(folder, deltas)
        for path in sorted(folder.iterdir()):
            if path.suffix == ".safetensors":
                tensors = open_tensors(path)
                write_tensors(partial / path.name, {name: changed.get(name, tensors[name]) for name in tensors})
            elif path.suffix in _SUFFIXES and path.is_file():
                shutil.copyfile(path, partial / path.name)
    return {"changed": len(changed), "tensors": count}


def _changed(folder: Path, deltas: Mapping[str, Delta]) -> tuple[dict[str, np.ndarray], int]:
    """The tensors that change, by their names in the files, and how many there are."""
    _, family, config, files, names = described(open_source(folder))
    mesh = make_mesh()
    stored = find_params(files, names, family, build(config, np.float32, "none", mesh, "xla"), mesh)
    rows = {row.path: row for row in stored.rows}
    found: dict[str, np.ndarray] = {}

    def parts(path):
        """Of each layer its number, and the rows of its tensors with their place in the weight."""
        row, leaf = rows[path], stored.planned[path]
        shape = leaf.shape[1:] if "{layer}" in row.name else leaf.shape
        whole = tuple(slice(0, size) for size in shape)
        for layer, name in enumerate(layer_names(row, leaf)):
            key = stored.names[name]
            if key not in found:
                found[key] = np.array(files.tensors[key])
            for here, view in views(found[key], row, shape[0], whole):
                yield layer, key, here, view

    # What is added comes first: a factor is on a bias, too.
    for path, delta in deltas.items():
        if delta.shift is not None:
            shift = delta.shift if "{layer}" in rows[path].name else delta.shift[None]
            for layer, key, here, view in parts(path):
                _put(view, view.astype(np.float32) + shift[layer][here], key)
    for path, delta in deltas.items():
        if delta.a is delta.factor is delta.in_factor is None:
            continue
        for layer, key, here, view in parts(path):
            weight = view.astype(np.float32)
            if delta.in_factor is not None:
                weight = weight * delta.in_factor[layer]
            if delta.a is not None:
                weight = weight + delta.b[layer][here] @ delta.a[layer]
            if delta.factor is not None:
                weight = weight * delta.factor[layer][here, None]
            _put(view, weight, key)
        bias = f"{path.removesuffix('weight')}bias"
        if delta.factor is not None and bias in rows:
            for layer, key, here, view in parts(bias):
                _put(view, view.astype(np.float32) * delta.factor[layer][here], key)
    return found | _copies(stored, found), len(files.tensors)


def _copies(stored: Stored, changed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What repeats a changed tensor under another name, by that name."""
    family, found = stored.family, {}
    original = dict([*family.repeats, *stored.copies])
    used = set(stored.used.values())
    for name in stored.files.tensors:
        canonical = family.canonical(name)
        of = stored.names.get(original.get(canonical, canonical))
        if name not in used and of in changed:
            found[name] = changed[of]
    return found


def _put(view: np.ndarray, numbers: np.ndarray, name: str) -> None:
    with np.errstate(over="ignore"):
        view[...] = numbers
    if not np.isfinite(view.astype(np.float32)).all():
        raise InputError(
            f"{name} cannot hold what was learned in its type {view.dtype}: save the model in another first"
        )
