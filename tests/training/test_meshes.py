"""What is told of meshes before one is compiled."""

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.backbone.planned import planned_backbone
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.machine.targets import TARGETS
from jaxprompt.training.meshes import estimate, refusal, sensible
from jaxprompt.training.step import TrainState
from jaxprompt.types import Batch, Inputs


@pytest.fixture(scope="module")
def llama():
    return planned_backbone("random:llama3-1b", mesh=make_mesh(), dtype="bfloat16")


def test_meshes_that_make_no_sense_are_refused_by_name(llama):
    assert refusal((4, 2, 1), llama, 12) == "12 examples do not divide into 8 parts (data x fsdp)"
    assert refusal((1, 1, 64), llama, 64) == "32 heads do not divide into 64 parts (tensor)"
    assert refusal((1, 3, 1), llama, 3) == "a width of 2048 does not divide into 3 parts (fsdp)"
    assert set(sensible(4, llama, 2)) == {(2, 1, 2), (1, 2, 2), (1, 1, 4)}


def estimated(backbone, sizes, rows=8, tokens=128, **keys):
    whole, part = np.zeros((rows, tokens), np.int32), np.zeros((rows, 1), np.int32)
    batch = Batch(Inputs(whole, whole, whole), part, part, part, part.astype(np.float32), part, {"label": part}, part)
    config = jaxprompt.load_config({"model": "m", "template": "{soft:2} {text}{target}", "dtype": "bfloat16", **keys})
    learned = {"prompt": jax.ShapeDtypeStruct((2, 2048), np.float32)}
    state = TrainState(np.zeros((), np.int32), learned, (learned, learned), np.zeros(2, np.uint32))
    return estimate(sizes, backbone, config, batch, 1, 1e12, state, TARGETS["h100"])


def test_weights_are_split_by_fsdp_and_tensor_and_copied_by_data(llama):
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(llama.params)) * 2]
    found = {mesh: estimated(llama, mesh) for mesh in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 1, 1))}
    assert found[8, 1, 1].weights == found[1, 1, 1].weights == sizes[0]
    assert sizes[0] / 8 <= found[1, 8, 1].weights < 1.001 * sizes[0] / 8
    # A copy sends the gradient of the prompt alone; split weights are gathered forward and backward.
    assert found[8, 1, 1].sent < 1e6 < found[1, 8, 1].sent == pytest.approx(2 * sizes[0] * 7 / 8, rel=0.01)
    assert found[8, 1, 1].kept == pytest.approx(found[1, 1, 1].kept / 8)
    full = estimated(llama, (8, 1, 1), train={"remat": "full"})
    # Of every layer its input.
    assert full.kept == 16 * 128 * 2048 * 2 < found[8, 1, 1].kept and full.flops == 1.5 * found[8, 1, 1].flops
