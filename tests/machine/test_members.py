"""A function for each member: the same, however many are computed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.machine.members import for_each
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.types import Batch, Inputs

WIDTH = 64


def batch_of(ids):
    return Batch(Inputs(ids, ids, ids), None, None, None, None, None, {}, None)


def of_member(weights, scale, batch):
    embedded = jnp.sin(batch.inputs.ids[..., None] * jnp.arange(1.0, WIDTH + 1))
    return {"sum": scale * (embedded @ weights["w"]).var(), "ids": batch.inputs.ids.sum()}


def case(members, rows, length, stacked):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(members, WIDTH, 4 * WIDTH)).astype(np.float32)}
    ids = rng.integers(0, 9, ((members,) if stacked else ()) + (rows, length))
    return (weights, np.arange(1.0, members + 1)), batch_of(ids)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("members", "rows", "turns"),
    # Of 100 tokens a row, as many members at once as have 600 in all and divide their number.
    [(1, 9, 0), (4, 1, 0), (6, 1, 0), (8, 1, 2), (4, 2, 2), (6, 2, 2), (5, 2, 5), (3, 6, 3), (3, 7, 3)],
)
def test_it_is_each_members_own_in_groups_that_caches_hold(members, rows, turns, stacked):
    values, batch = case(members, rows, 100, stacked)
    mesh = make_mesh(devices=jax.devices("cpu")[:1])
    found = jax.jit(lambda values, batch: for_each(of_member, values, batch, mesh))(values, batch)
    for number in range(members):
        own = of_member(*jax.tree.map(lambda x, at=number: x[at], values),
                        jax.tree.map(lambda x, at=number: x[at] if stacked else x, batch))  # fmt: skip
        for name, value in own.items():
            np.testing.assert_allclose(found[name][number], value, rtol=1e-5)
    program = jax.make_jaxpr(lambda values, batch: for_each(of_member, values, batch, mesh))(values, batch)
    loops = [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert loops == ([turns] if turns else [])


def test_one_group_is_held_at_a_time():
    mesh = make_mesh(devices=jax.devices("cpu")[:1])

    def held(members):
        of = jax.jit(lambda values, batch: for_each(jax.grad(lambda *a: of_member(*a)["sum"]), values, batch, mesh))
        return of.lower(*case(members, 6, 100, False)).compile().memory_analysis().temp_size_in_bytes

    assert held(16) < 1.5 * held(1)


def test_what_members_share_is_computed_once_where_it_is_said_to_be_apart_from_them():
    values, batch = case(8, 7, 100, False)
    mesh = make_mesh(devices=jax.devices("cpu")[:1])

    def loops(apart):
        program = jax.make_jaxpr(lambda values, batch: for_each(of_member, values, batch, mesh, apart))(values, batch)
        return sum(eqn.primitive.name == "scan" for eqn in program.eqns)

    assert (loops(False), loops(True)) == (1, 0)
