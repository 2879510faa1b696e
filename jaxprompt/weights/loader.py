"""Hugging Face weights to a sharded parameter tree, one parameter at a time, without torch."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxprompt.errors import InputError
from jaxprompt.models import quantized
from jaxprompt.models.families import Family, Weight
from jaxprompt.weights import parts
from jaxprompt.weights.files import ModelFiles, shorten
from jaxprompt.weights.planned import planned_params
from jaxprompt.weights.safetensors_file import type_name

# What weights may be stored as.
_TYPES = ("F32", "BF16", "F16", "F64")
# What names the weights of adapters that were saved unmerged, and of quantised files, contain.
_ADAPTER = re.compile(r"\blora_|\.base_layer\.|modules_to_save\.")
_QUANTIZED = re.compile(r"\.(qweight|qzeros|g_idx|scales|absmax|quant_map|SCB|weight_scale(_inv)?|weight_packed)$")
# Rows of the word embedding that are compared at a time.
_COMPARED = 1 << 22


def canonical_names(files: ModelFiles, family: Family) -> dict[str, str]:
    """Returns canonical name -> stored name of all tensors but mere repetitions.

    Raises:
      InputError: two different tensors have one canonical name.
    """
    tensors, names = files.tensors, {}
    for stored in tensors:
        other = names.setdefault(family.canonical(stored), stored)
        if other != stored and not _equal(tensors[other], tensors[stored]):
            raise InputError(
                f"weights in {files.folder}: {shorten([other])} and {shorten([stored])} are one weight, and differ: "
                "remove the one that was not trained"
            )
    for name, original in family.repeats:
        if name in names and original in names and _equal(tensors[names[name]], tensors[names[original]]):
            del names[name]
    return names


@dataclasses.dataclass(frozen=True)
class Stored:
    """The parameters of a module in its files: found and of the right shapes, not yet read.

    Attributes:
      planned: by path, what each parameter will be.
      rows: where each lies in the files.
      names: canonical -> stored name.
      copies: (name, of what) of all that is a copy.
      used: canonical -> stored name of the weights used.
    """

    files: ModelFiles
    family: Family
    planned: dict[str, Any]
    rows: list[Weight]
    names: dict[str, str]
    copies: list[tuple[str, str]]
    used: dict[str, str]

    def read(self, stopped: Callable[[], bool] = lambda: False) -> Any:
        """Reads the parameter tree, cast to the module's dtype and placed.

        Each device's part of a parameter is filled straight from the mapped files; at most two parameters are on the
        host at a time, beside those that stay there because it is the device.

        Args:
          stopped: asked before each parameter; true: no one waits for them any more.

        Raises:
          InputError: a copy, or a head that config.json ties to the word embedding, that differs from what it is a copy
            of; numbers that are not finite; a weight that float16 cannot hold.
        """
        files, names = self.files, self.names
        _check_copies(files, self.family, self.copies, names, self.used)
        params: dict[str, Any] = {}
        previous = None
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row in self.rows:
                if stopped():
                    raise CancelledError
                leaf = self.planned[row.path]
                stored = {names[name]: files.tensors[names[name]] for name in layer_names(row, leaf)}
                reader = _quantizing_reader if isinstance(leaf, quantized.Quantized) else _reader
                params[row.path] = jax.tree.map(
                    lambda array, read: jax.make_array_from_callback(array.shape, array.sharding, read, array.dtype),
                    leaf,
                    reader(pool, files.folder, stored, row, leaf),
                )
                # The transfer of one parameter runs while the next is read, and no further ahead.
                jax.block_until_ready(previous)
                previous = params[row.path]
        return unflatten_dict(params, sep="/")


def find_params(
    files: ModelFiles,
    names: Mapping[str, str],
    family: Family,
    module: nn.Module,
    mesh: Mesh,
    quantize: str | None = None,
) -> Stored:
    """Finds the parameters of `module` in its files, by names and shapes alone.

    Args:
      files: an opened folder.
      names: from `canonical_names`.
      family: whose table says where each parameter lies.
      module: its shapes must match the files.
      mesh: on which `jaxprompt.machine.sharding.PARAM_RULES` says what goes where.
      quantize: "int8" or "int4" for the matrices of attention and MLP; they become `Quantized`.

    Raises:
      InputError: missing, unexpected, mis-shaped and mis-typed weights, all in one line; a setting of config.json that
        asks for weights which the family's files do not have.
    """
    planned = planned_params(module, mesh, quantize)
    rows = [weight for weight in family.weights(module.config) if weight.path in planned]
    unnamed = sorted(set(planned) - {row.path for row in rows})
    if unnamed:
        raise InputError(
            f"{files.folder / 'config.json'} asks for {shorten(unnamed)}, for which model_type {family.name} has "
            "no weights: one of its settings is not implemented, compare it with a published checkpoint's"
        )
    copies = _copies(family, rows, module.config.head)
    stand_ins = {original: names[copy] for copy, original in copies if copy in names and original not in names}
    needed = {row.name for row in rows}
    names = {**names, **{original: stored for original, stored in stand_ins.items() if original in needed}}
    used = _check(files, family, rows, planned, names)
    return Stored(files, family, planned, rows, names, copies, used)


def layer_names(row: Weight, leaf: jax.ShapeDtypeStruct) -> list[str]:
    """Returns the canonical names that make up a parameter, one per layer if it is stacked."""
    return [row.name.format(layer=layer) for layer in range(leaf.shape[0])] if "{layer}" in row.name else [row.name]


def _check(
    files: ModelFiles,
    family: Family,
    rows: list[Weight],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    names: Mapping[str, str],
) -> dict[str, str]:
    """Returns the used names; raises one InputError for all that is wrong."""
    missing, misshaped, mistyped, used = [], {}, {}, {}
    for row in rows:
        leaf = expected[row.path]
        shape = leaf.shape[1:] if "{layer}" in row.name else leaf.shape
        shape = (row.stored_rows(shape[0]), *shape[1:])
        shape = shape[::-1] if row.transpose else shape
        for name in layer_names(row, leaf):
            if name not in names:
                missing.append(name)
                continue
            used[name] = names[name]
            tensor = files.tensors[names[name]]
            if tensor.shape != shape:
                misshaped[name] = f"{name} is {list(tensor.shape)}, config.json says {list(shape)}"
            elif type_name(tensor) not in _TYPES:
                mistyped[name] = f"{name} is {type_name(tensor)}, expected {', '.join(_TYPES)}"
    ignored = re.compile("|".join([*family.ignored, *(re.escape(copy) for copy, _ in family.copies)]))
    unexpected = [name for name in names if name not in used and not ignored.fullmatch(name)]
    problems = [
        f"{what}: {shorten(found)}"
        for what, found in (
            ("missing", sorted(set(missing))),
            ("unexpected", sorted(unexpected)),
            ("wrong shape", list(misshaped.values())),
            ("wrong type", list(mistyped.values())),
        )
        if found
    ]
    if problems:
        remedy = _remedy(unexpected, bool(used), bool(missing), bool(misshaped))
        raise InputError(
            f"weights in {files.folder} do not fit model_type {family.name}: {'; '.join(problems)}: {remedy}"
        )
    return used


def _remedy(unexpected: list[str], some_fit: bool, some_missing: bool, some_misshaped: bool) -> str:
    """What to do about weights that do not fit."""
    if any(_ADAPTER.search(name) for name in unexpected):
        return "an adapter is among them, merge it into the model with PEFT's merge_and_unload() and save that"
    if any(_QUANTIZED.search(name) for name in unexpected):
        return "they are quantised, use the model's unquantised files"
    if not some_fit:
        return "config.json is of another kind of model than they are, download both from one place"
    if some_misshaped or (some_missing and unexpected):
        return "check that config.json is theirs (model_type and sizes), or download both again"
    if some_missing:
        return "the files are not complete or config.json asks for too much, download both again"
    if unexpected:
        return "config.json does not ask for them (is a bias or a number of layers not set?), or they are another task's head"
    return "convert them"


def _copies(family: Family, rows: list[Weight], head: str) -> list[tuple[str, str]]:
    """Returns (name, of what) of all that is a copy in the configured model."""
    word = next(row.name for row in rows if row.path == "word/weight")
    return [*family.copies, *([(family.tied_copy, word)] if head == "tied" else [])]


def _check_copies(
    files: ModelFiles,
    family: Family,
    copies: list[tuple[str, str]],
    names: Mapping[str, str],
    used: Mapping[str, str],
) -> None:
    """Raises InputError if what goes unused as a copy of a weight is none."""
    for copy, original in copies:
        if copy not in names or copy in used or original not in used or names[copy] == names[original]:
            continue
        if not _equal(files.tensors[names[copy]], files.tensors[names[original]]):
            why = (
                "to which config.json ties it: set tie_word_embeddings to false in config.json"
                if copy == family.tied_copy
                else f"of which model_type {family.name} makes it a copy: store the one that was trained as both"
            )
            raise InputError(f"weights in {files.folder}: {names[copy]} differs from {names[original]}, {why}")


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    one, other = np.atleast_1d(one), np.atleast_1d(other)
    step = max(1, _COMPARED * len(one) // max(one.size, 1))
    for first in range(0, len(one), step):
        a, b = one[first : first + step], other[first : first + step]
        # Equal bytes are the rule, and cheap; NaN equals itself here.
        same_bytes = a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
        if not same_bytes and not np.array_equal(a.astype(np.float32), b.astype(np.float32)):
            return False
    return True


Read = Callable[[tuple[slice, ...]], np.ndarray]


def _normal(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The index with starts and stops."""
    return tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))


def _not_finite(folder: Path, stored: Mapping[str, np.ndarray]) -> InputError:
    """Returns what to raise about tensors that hold NaN or infinities."""
    counts = {name: int((~np.isfinite(tensor)).sum()) for name, tensor in stored.items()}
    found = [f"{name} ({count} of {stored[name].size} numbers)" for name, count in counts.items() if count]
    return InputError(
        f"weights in {folder} hold NaN or infinities: {shorten(found)}: download the files again, or use an earlier "
        "checkpoint of the run that made them"
    )


def _reader(
    pool: Executor, folder: Path, stored: Mapping[str, np.ndarray], row: Weight, leaf: jax.ShapeDtypeStruct
) -> Read:
    """Returns the function that reads the part of a parameter that one device holds."""
    stacked = "{layer}" in row.name
    shape = leaf.shape[1:] if stacked else leaf.shape
    tensors = list(stored.values())

    # Devices that hold the same part share it.
    @functools.cache
    def read(*bounds: tuple[int, int]) -> np.ndarray:
        index = tuple(slice(*bound) for bound in bounds)
        out = parts.aligned_empty([part.stop - part.start for part in index], leaf.dtype)
        layers, inner, chosen = (out, index[1:], tensors[index[0]]) if stacked else (out[None], index, tensors)
        finite = parts.fill(
            pool,
            (
                (target[rows], source)
                for target, tensor in zip(layers, chosen, strict=True)
                for rows, source in parts.views(tensor, row, shape[0], inner)
            ),
        )
        if not finite:
            raise _not_finite(folder, stored)
        if leaf.dtype == jnp.float16 and not parts.is_finite(out):
            raise InputError(f"{row.name} holds values that float16 cannot: load the model as bfloat16 or float32")
        return out

    return lambda index: read(*((part.start, part.stop) for part in _normal(index, leaf.shape)))


def _quantizing_reader(
    pool: Executor, folder: Path, stored: Mapping[str, np.ndarray], row: Weight, leaf: quantized.Quantized
) -> quantized.Quantized:
    """As `_reader`, a tree of functions like `leaf`: of the values and of the scales."""
    layers, out_size, in_size = leaf.shape

    # Scales are of rows or of groups that may cross a part's border: rows are quantised whole, once for all functions.
    @functools.cache
    def read(start: int, stop: int) -> quantized.Quantized:
        whole = jax.tree.map(
            lambda array: parts.aligned_empty((layers, stop - start, *array.shape[2:]), array.dtype), leaf
        )
        index = (slice(start, stop), slice(0, in_size))
        finite = parts.quantize(
            pool,
            (
                (list(parts.views(tensor, row, out_size, index)), whole.values[layer], whole.scale[layer])
                for layer, tensor in enumerate(stored.values())
            ),
        )
        if not finite:
            raise _not_finite(folder, stored)
        return whole

    def part(name: str) -> Read:
        def of(index: tuple[slice, ...]) -> np.ndarray:
            _, out, *rest = _normal(index, getattr(leaf, name).shape)
            return getattr(read(out.start, out.stop), name)[(slice(None), slice(None), *rest)]

        return of

    return leaf.replace(values=part("values"), scale=part("scale"))
