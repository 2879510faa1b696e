"""What a program is said to take of each device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jaxprompt.machine import hlo
from jaxprompt.machine.plan import device_bytes, factorings, kernel_seconds, usage
from jaxprompt.machine.targets import TARGETS


def test_devices_are_arranged_in_every_way_once():
    found = list(factorings(12))
    assert len(found) == len(set(found)) == 18 and all(np.prod(sizes) == 12 for sizes in found)
    assert {(12, 1, 1), (1, 12, 1), (1, 1, 12), (2, 3, 2)} < set(found)


def test_a_device_holds_its_part_of_what_is_split_and_all_of_the_rest():
    mesh = AbstractMesh((2, 4), ("a", "b"))
    split = jax.ShapeDtypeStruct((8, 6), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("b", "a")))
    whole = jax.ShapeDtypeStruct((5,), jnp.float32)
    assert device_bytes({"split": split, "whole": whole, "none": None}) == 2 * 3 * 2 + 5 * 4


def test_what_a_program_takes():
    def step(kept, x):
        return kept + 1, jnp.tanh(x @ x) @ x

    shapes = jax.ShapeDtypeStruct((8,), jnp.float32), jax.ShapeDtypeStruct((64, 64), jnp.float32)
    program = jax.jit(step, donate_argnums=0).lower(*shapes).compile()
    found = usage(program, TARGETS["h100"])
    assert found.arguments == 32 + 64 * 64 * 4
    # What is donated is not counted again among the outputs.
    assert 64 * 64 * 4 <= found.outputs < 64 * 64 * 4 + 32
    assert found.flops == 2 * 2 * 64**3 and found.kept == 0 and not found.sent
    assert found.temporary == program.memory_analysis().temp_size_in_bytes > 0
    assert found.seconds >= found.flops / TARGETS["h100"].products["f32"]


def test_a_kernel_takes_as_long_as_its_products_or_its_memory():
    target = TARGETS["h100"]
    bound = {"products": hlo.Kernel("a", "", 1, 8, {"bf16": 989e12}), "memory": hlo.Kernel("b", "", 1, 10**12, {})}
    assert kernel_seconds(bound["products"], target) == pytest.approx(1.0)
    assert kernel_seconds(bound["memory"], target) == pytest.approx(1e12 / 3.35e12)
