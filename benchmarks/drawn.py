"""Backbones of a workload's shape without files: shapes alone, or with random weights drawn on the devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from models import SHAPES
from workloads import Workload

from jaxprompt.backbone import Backbone
from jaxprompt.backbone.load import DTYPES
from jaxprompt.models import build
from jaxprompt.models.families import family_of
from jaxprompt.models.stack import unstacked_shapes
from jaxprompt.weights.planned import planned_params


def abstract_backbone(workload: Workload, tokenizer, mesh, attention: str, unroll: bool, remat: str) -> Backbone:
    """The backbone of a workload without weights: shapes in their place, laid out on the mesh."""
    config_json = SHAPES[workload.model]
    family = family_of(config_json["model_type"])
    # The stored names by which a family knows what a model has.
    weights = {"decoder.final_layer_norm.weight"}
    if not config_json.get("tie_word_embeddings", True):
        weights.add("lm_head.weight")
    config = family.translate(dict(config_json), weights)
    module = build(config, DTYPES[workload.dtype], remat, mesh, attention)
    params = unflatten_dict(planned_params(module, mesh), sep="/")
    return Backbone(
        ref=workload.model,
        family=family.name,
        config=config,
        module=module,
        params=unstacked_shapes(params) if unroll else params,
        mesh=mesh,
        fingerprint="0" * 16,
        dtype=module.dtype,
        read_tokenizer=lambda: tokenizer,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _normal(shape, dtype, sharding, key):
    return jax.lax.with_sharding_constraint((0.02 * jax.random.normal(key, shape, jnp.float32)).astype(dtype), sharding)


def drawn_backbone(workload: Workload, tokenizer, mesh, attention: str, unroll: bool, remat: str) -> Backbone:
    """The same with random weights, in the second that the devices need to draw them; norms multiply by one."""
    backbone = abstract_backbone(workload, tokenizer, mesh, attention, unroll, remat)
    leaves, structure = jax.tree.flatten(backbone.params)
    stacked = 0 if unroll else 1
    keys, drawn = jax.random.split(jax.random.key(0), len(leaves)), []
    for leaf, key in zip(leaves, keys, strict=True):
        if leaf.ndim <= 1 + stacked and leaf.size < 1 << 20:
            drawn.append(jax.device_put(jnp.ones(leaf.shape, leaf.dtype), leaf.sharding))
        else:
            drawn.append(_normal(leaf.shape, leaf.dtype, leaf.sharding, key))
    return dataclasses.replace(backbone, params=structure.unflatten(drawn))
