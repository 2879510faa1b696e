"""Which meshes a config could be trained on, and what each takes at least: told from shapes, before one is compiled."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config
from jaxprompt.machine.plan import device_bytes, factorings, product_seconds
from jaxprompt.machine.sharding import MESH_AXES, row_shards
from jaxprompt.machine.targets import Target
from jaxprompt.types import Batch
from jaxprompt.weights.planned import planned_params

Sizes = tuple[int, int, int]


def name_of(sizes: Sizes) -> str:
    """As in 2x4x8: data x fsdp x tensor."""
    return "x".join(map(str, sizes))


def refusal(sizes: Sizes, backbone: Backbone, batch_size: int) -> str | None:
    """Why a mesh makes no sense for a model and a batch; None: it does.

    Args:
      batch_size: examples that are computed at once.
    """
    data, fsdp, tensor = sizes
    if batch_size % (data * fsdp):
        return f"{batch_size} examples do not divide into {data * fsdp} parts (data x fsdp)"
    parts = (backbone.config.encoder, backbone.config.decoder) if backbone.seq2seq else (backbone.config,)
    for part in parts:
        if part.num_heads % tensor:
            return f"{part.num_heads} heads do not divide into {tensor} parts (tensor)"
        if part.hidden_size % fsdp:
            return f"a width of {part.hidden_size} does not divide into {fsdp} parts (fsdp)"
    return None


def sensible(devices: int, backbone: Backbone, batch_size: int) -> list[Sizes]:
    """The meshes of so many devices that make sense."""
    return [sizes for sizes in factorings(devices) if refusal(sizes, backbone, batch_size) is None]


@dataclass(frozen=True)
class Estimate:
    """What a step takes of each device, roughly; by it meshes are ranked, and none is judged but by `resident`.

    Attributes:
      weights: bytes of the model, exact.
      resident: bytes of the model, what is learned, its optimizer's state and the batches, exact.
      kept: bytes that the forward pass keeps for the backward pass.
      temporary: bytes beside those: one layer's weights and attention, and the head's tile.
      moved: bytes read and written of weights and what is kept.
      sent: bytes sent to other devices.
      flops: of products.
      kernels, links: seconds of products or memory, whichever takes longer, and of what is sent.
    """

    weights: int
    resident: int
    kept: float
    temporary: float
    moved: float
    sent: float
    flops: float
    kernels: float
    links: float

    @property
    def bytes(self) -> float:
        return self.resident + self.kept + self.temporary

    @property
    def seconds(self) -> float:
        """One after the other."""
        return self.kernels + self.links


def estimate(
    sizes: Sizes,
    backbone: Backbone,
    config: Config,
    batch: Batch,
    parts: int,
    needed: float,
    state: Any,
    target: Target,
) -> Estimate:
    """Estimates one mesh.

    Args:
      config: by which the backbone is loaded.
      batch: of the shapes that are computed at once; its rows are filled up to what the mesh divides.
      parts: such batches in a step.
      needed: FLOPs that a step needs, of all devices together.
      state: the train state's shapes; it lies whole on every device.
      target: the chip.
    """
    mesh = AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    planned = planned_params(backbone.module, mesh, config.quantize)
    remat, (_, fsdp, tensor) = config.train.remat, sizes
    shards, rows = row_shards(mesh), batch.inputs.ids.shape[0]
    here = math.ceil(rows / shards)
    itemsize = jnp.dtype(backbone.dtype).itemsize
    # Forward, backward, and forward again.
    passes = 3 if remat == "full" else 2
    kept = largest = read = sent = 0.0
    for path, leaf in planned.items():
        whole = getattr(leaf, "values", leaf)
        layers = "layers/" in path and len(whole.shape) > 2
        # What a device computes with: its part of `tensor`, of `fsdp` all.
        used = device_bytes(leaf) * (fsdp if "fsdp" in jax.tree.leaves(tuple(whole.sharding.spec)) else 1)
        read += used
        if fsdp > 1 and used > device_bytes(leaf):
            sent += passes * used * (fsdp - 1) / fsdp
        if not layers:
            largest = max(largest, used)
            continue
        depth, out = whole.shape[:2]
        tokens = here * _tokens(path, backbone, batch)
        of_out, of_in = (_axes(whole.sharding.spec, number) for number in (1, 2))
        width = depth * tokens * itemsize
        if remat != "full":
            kept += width * out / (tensor if "tensor" in of_out else 1)
        elif path.endswith("mlp/up/weight"):  # one in every layer, of whose input a row is kept
            kept += width * whole.shape[2]
        largest = max(largest, used / depth)
        if tensor > 1 and "tensor" in of_in:  # what the parts of a product give is added up, and its gradient too
            sent += passes * 2 * width * out * (tensor - 1) / tensor
    weights = device_bytes(planned)
    batches = sum(device_bytes(leaf) for leaf in jax.tree.leaves(batch)) * math.ceil(rows / shards) / rows
    resident = weights + device_bytes(state) + int(2 * parts * batches)
    length = batch.inputs.ids.shape[1]
    heads = backbone.config.decoder.num_heads if backbone.seq2seq else backbone.config.num_heads
    logits = 4 * here * heads / tensor * min(length, 512) * length
    flops = needed / math.prod(sizes) * (here * shards / rows) * (1.5 if remat == "full" else 1.0)
    moved = parts * (passes * read + 2 * kept)
    sent = parts * sent + 2 * device_bytes(state.trainable)
    return Estimate(
        weights=weights,
        resident=resident,
        kept=kept,
        temporary=2 * largest + 3 * logits,
        moved=moved,
        sent=sent,
        flops=flops,
        kernels=max(product_seconds({product_type(backbone): flops}, target), moved / target.bandwidth),
        links=sent / target.link,
    )


def product_type(backbone: Backbone) -> str:
    """The type of products, as `Target.products` names it."""
    return {"bfloat16": "bf16", "float16": "f16"}.get(jnp.dtype(backbone.dtype).name, "f32")


def _tokens(path: str, backbone: Backbone, batch: Batch) -> int:
    """Tokens of a row that go through a layer."""
    read = backbone.seq2seq and path.startswith("encoder/")
    return (batch.source if read else batch.inputs).ids.shape[1]


def _axes(spec: Any, number: int) -> tuple:
    """The mesh axes that split an array's axis."""
    found = spec[number] if number < len(spec) else None
    return found if isinstance(found, tuple) else (found,)
