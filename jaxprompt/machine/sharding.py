"""Meshes, and how rows and parameters lie on them."""

from collections.abc import Mapping, Sequence
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
    """Returns into how many parts `row_sharding` splits the rows."""
    return int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))


def batch_shardings(mesh: Mesh, batch: Batch | list[Batch]) -> Any:
    """Where the arrays of a batch, or of its parts, lie: rows split, those of each member of a population likewise."""
    if isinstance(batch, list):
        return [batch_shardings(mesh, part) for part in batch]
    if not is_stacked(batch):
        return jax.tree.map(lambda _: row_sharding(mesh), batch)
    rows, whole = NamedSharding(mesh, PartitionSpec(None, ROW_AXES)), replicated(mesh)
    shardings = jax.tree.map(lambda _: rows, batch)
    return shardings.replace(**{name: whole for name in ("lead", "keys") if getattr(batch, name) is not None})


def constrain_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Keeps activations `[rows, ...]` split by rows, where the rows divide evenly.

    Without it the compiler may move activations instead of gathering the weights of `fsdp`.
    """
    if mesh is None or x.shape[0] % row_shards(mesh):
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
