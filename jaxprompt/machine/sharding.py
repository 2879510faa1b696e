"""Meshes, and how rows and parameters lie on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxprompt.errors import InputError
from jaxprompt.types import Batch, is_stacked

MESH_AXES = ("data", "fsdp", "tensor")
# Rows are split over both axes that do not split the computation of one row.
ROW_AXES = ("data", "fsdp")
# Logical parameter axis -> mesh axis. Axes not named here (layers, head_dim) are replicated.
PARAM_RULES: Mapping[str, str] = {
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices for training: `data * fsdp` groups share the rows, `fsdp * tensor` devices share the weights.

    Args:
      data: copies of the model; -1 takes all devices that the other two leave.
      fsdp: devices that split the weights along the hidden axis. Raise it when the weights do not fit.
      tensor: devices that split heads, MLP and vocabulary. Raise it when one row does not fit.
      devices: default all.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for name, size in sizes.items():
        if size < 1 and not (name == "data" and size == -1):
            raise InputError(f"mesh axis {name} is {size}: use a positive number{' or -1' if name == 'data' else ''}")
    if data == -1:
        data = len(devices) // (fsdp * tensor)
    if data * fsdp * tensor != len(devices):
        raise InputError(
            f"mesh data={sizes['data']} fsdp={fsdp} tensor={tensor} does not fit {len(devices)} devices: "
            "their product must equal the number of devices (data=-1 fills up)"
        )
    return jax.make_mesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits axis 0 (rows) over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def row_shards(mesh: Mesh) -> int:
    """Returns into how many parts `row_sharding` splits the rows that are computed with here: one inside `in_parts`."""
    return 1 if is_part() else int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))


def in_parts(function: Callable, mesh: Mesh) -> Callable:
    """`function(whole, whole, batch)`, of whose batch each device takes its own rows, where rows are all that is split.

    The compiler would sum what each layer's rows give to the prompt's keys and values over the devices, layer by layer. Here
    the function sums over the devices, by `summed`, what it returns, and nothing else is moved.
    """
    if mesh.size == 1 or mesh.shape["data"] != mesh.size:
        return function

    def split(frozen, trainable, batch):
        specs = PartitionSpec(), PartitionSpec(), jax.tree.map(lambda one: one.spec, batch_shardings(mesh, batch))
        part = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
        return part(frozen, trainable, batch)

    return split


def summed(tree: Any) -> Any:
    """Inside `in_parts`, the sums over all devices; elsewhere, where arrays are whole, the same."""
    return jax.lax.psum(tree, MESH_AXES) if is_part() else tree


def is_part() -> bool:
    """Whether what is computed here is one device's part, inside `in_parts`: nothing is left for the compiler to split."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def batch_shardings(mesh: Mesh, batch: Batch | list[Batch]) -> Any:
    """Where the arrays of a batch, or of its parts, lie: rows split, those of each member of a population likewise."""
    if isinstance(batch, list):
        return [batch_shardings(mesh, part) for part in batch]
    if not is_stacked(batch):
        return jax.tree.map(lambda _: row_sharding(mesh), batch)
    rows, whole = NamedSharding(mesh, PartitionSpec(None, ROW_AXES)), replicated(mesh)
    shardings = jax.tree.map(lambda _: rows, batch)
    return shardings.replace(**{name: whole for name in ("lead", "keys") if getattr(batch, name) is not None})


def held_shards(mesh: Mesh) -> frozenset[int] | None:
    """Which of the `row_shards` parts of a batch's rows this process's devices hold; None: all of them."""
    if not mesh.is_multi_process:
        return None
    shards = row_shards(mesh)
    indices = row_sharding(mesh).addressable_devices_indices_map((shards,)).values()
    held = frozenset(part for (index,) in indices for part in range(*index.indices(shards)))
    return None if len(held) == shards else held


def place(tree: Any, shardings: Any) -> Any:
    """Puts arrays on the devices of a mesh. Of several processes each hands over the parts that its own devices hold.

    Args:
      tree: arrays of the host, the same in all processes as far as each holds them, or arrays on the devices.
      shardings: one, or a tree of them like `tree`.
    """
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: _placed(leaf, shardings), tree)
    return jax.tree.map(_placed, tree, shardings)


def place_batch(batch: Batch | list[Batch], mesh: Mesh) -> Any:
    """Puts a batch, or its parts, on the devices of a mesh, as `place` does."""
    return place(batch, batch_shardings(mesh, batch))


def _placed(array: Any, sharding: NamedSharding) -> jax.Array:
    if not getattr(array, "is_fully_addressable", True):
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed(jax.random.key_data(array), sharding))
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index], dtype=array.dtype)


def on_host(tree: Any, mesh: Mesh) -> Any:
    """Arrays on the devices of a mesh as whole NumPy arrays, in every process."""
    if mesh.is_multi_process:
        tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(np.asarray, jax.device_get(tree))


def constrain_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Keeps activations `[rows, ...]` split by rows, where the rows divide evenly.

    Without it the compiler may move activations instead of gathering the weights of `fsdp`.
    """
    if mesh is None or is_part() or x.shape[0] % row_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, row_sharding(mesh))


def param_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Returns one `NamedSharding` per parameter by `PARAM_RULES`; an axis that does not divide is replicated.

    Args:
      abstract: parameters of `jax.eval_shape(module.init, ...)`, still boxed with their logical axes.
    """

    def sharding(spec: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        logical = tuple(spec) + (None,) * (len(leaf.shape) - len(spec))
        axes = [PARAM_RULES.get(name) for name in logical]
        fits = [
            axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree.map(
        sharding,
        nn.get_partition_spec(abstract),
        nn.meta.unbox(abstract),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )
