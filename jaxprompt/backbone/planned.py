"""Backbones of which there are shapes alone: to plan with, and to compile for devices that are not at hand."""

import dataclasses
from typing import Any

from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxprompt.backbone.backbone import Backbone
from jaxprompt.backbone.load import load_backbone
from jaxprompt.machine.background import Idle
from jaxprompt.models.stack import unstacked_shapes
from jaxprompt.weights.planned import planned_params


def planned_backbone(ref: str, **how: Any) -> Backbone:
    """Returns a backbone whose parameters stay shapes; arguments and errors as those of `load_backbone`.

    Nothing is read of the weights but their names and shapes.
    """
    backbone = load_backbone(ref, **how, background=Idle())
    return dataclasses.replace(backbone, reading=None, fingerprint="0" * 16)


def on_mesh(backbone: Backbone, mesh: Mesh, quantize: str | None) -> Backbone:
    """The same backbone, its shapes laid out on another mesh.

    Args:
      quantize: as it was loaded.
    """
    module = dataclasses.replace(backbone.module, mesh=mesh)
    params = unflatten_dict(planned_params(module, mesh, quantize), sep="/")
    params = unstacked_shapes(params) if backbone.unrolled else params
    moved = dataclasses.replace(backbone, module=module, params=params, mesh=mesh)
    # A tokenizer is read once.
    moved.__dict__.update({name: value for name, value in backbone.__dict__.items() if name.startswith("tokenizer")})
    return moved
