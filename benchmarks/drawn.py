"""Backbones of a workload's shape without files: shapes alone, or with random weights drawn on the devices."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from models import SHAPES
from workloads import Workload

from jaxprompt.backbone import Backbone
from jaxprompt.backbone.load import DTYPES
from jaxprompt.machine.sharding import param_shardings
from jaxprompt.models import build, init_params
from jaxprompt.models.families import family_of


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
    boxed = jax.eval_shape(lambda: init_params(module, jax.random.key(0)))
    params = jax.tree.map(placed, nn.meta.unbox(boxed), param_shardings(boxed, mesh))
    return Backbone(
        ref=workload.model,
        family=family.name,
        config=config,
        module=module,
        params=unstacked(params) if unroll else params,
        mesh=mesh,
        fingerprint="0" * 16,
        dtype=module.dtype,
        read_tokenizer=lambda: tokenizer,
    )


def placed(x, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """The shape of an array, on devices."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def unstacked(params):
    """As `models.stack.unstack`, of shapes."""
    if not isinstance(params, dict):
        return params
    apart = {name: unstacked(tree) for name, tree in params.items()}
    if "layers" in apart:

        def one(x):
            spec = PartitionSpec(*x.sharding.spec[1:])
            return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=NamedSharding(x.sharding.mesh, spec))

        count = jax.tree.leaves(apart["layers"])[0].shape[0]
        apart["layers"] = dict.fromkeys(map(str, range(count)), jax.tree.map(one, apart["layers"]))
    return apart


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
