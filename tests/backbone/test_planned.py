"""Backbones of shapes alone."""

import jax
import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.backbone.planned import on_mesh, planned_backbone
from jaxprompt.machine.sharding import make_mesh
from tests.conftest import STORIES


@pytest.mark.parametrize("how", [{}, {"quantize": "int8"}, {"unroll": True}, {"dtype": "bfloat16"}])
def test_its_shapes_are_those_of_the_weights_on_any_mesh(how):
    loaded = load_backbone(STORIES, **how)
    planned = planned_backbone(STORIES, **how)
    assert planned.loaded() is planned
    moved = on_mesh(planned, make_mesh(), how.get("quantize"))
    assert moved.tokenizer is not None
    for backbone in (planned, moved):
        assert jax.tree.structure(backbone.params) == jax.tree.structure(loaded.params)
        for shape, weight in zip(*map(jax.tree.leaves, (backbone.params, loaded.params)), strict=True):
            assert isinstance(shape, jax.ShapeDtypeStruct)
            assert (shape.shape, shape.dtype) == (weight.shape, weight.dtype)
            assert shape.sharding.is_equivalent_to(weight.sharding, weight.ndim)
