from pathlib import Path

import jax
import pytest

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import make_mesh
from tests.devices import run_on_eight_devices

# Runs in a process of its own: the number of devices is fixed when JAX starts.
EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, sys
from jax.sharding import PartitionSpec as P
from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.machine.sharding import make_mesh, row_sharding, row_shards
from jaxprompt.types import Inputs

assert jax.device_count() == 8
mesh = make_mesh(data=2, fsdp=2, tensor=2)
assert dict(make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
assert row_shards(mesh) == 4
one = load_backbone(sys.argv[1], mesh=make_mesh(devices=jax.devices()[:1]))
eight = load_backbone(sys.argv[1], mesh=mesh)
assert one.fingerprint == eight.fingerprint

q = eight.params["layers"]["attention"]["q"]["weight"]
assert q.sharding.spec == P(None, "tensor", "fsdp"), q.sharding
assert q.addressable_shards[0].data.shape == (q.shape[0], q.shape[1] // 2, q.shape[2] // 2)
# 61 words do not divide by 2: replicated over tensor.
assert eight.params["word"]["weight"].sharding.spec == P(None, "fsdp")
jax.tree.map(np.testing.assert_array_equal, eight.params, one.params)
unrolled = load_backbone(sys.argv[1], mesh=mesh, unroll=True)
q = unrolled.params["layers"]["0"]["attention"]["q"]["weight"]
assert q.sharding.spec == P("tensor", "fsdp"), q.sharding
random_eight = random_backbone(one.config, mesh=mesh)
assert random_eight.params["layers"]["mlp"]["up"]["weight"].sharding.spec == P(None, "tensor", "fsdp")

ids = np.random.default_rng(0).integers(0, 61, (8, 6))
soft = np.random.default_rng(1).normal(size=(3, 24)).astype(np.float32)

def loss(soft, params, inputs, backbone):
    prefix = backbone.prefill(params, 61 + jnp.arange(3), soft=soft)
    hidden = backbone.apply(params, inputs, prefix=prefix)
    return (hidden ** 2).mean(), (hidden, backbone.head(params, hidden))

def step(backbone, inputs):
    grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=3)
    return grad(soft, backbone.params, inputs, backbone)

inputs = Inputs(ids, np.broadcast_to(np.arange(3, 9), ids.shape), np.ones_like(ids))
placed = jax.device_put(inputs, row_sharding(mesh))
(got, (hidden, logits)), (want, (_, want_logits)) = step(eight, placed), step(one, inputs)
np.testing.assert_allclose(logits, want_logits, rtol=1e-4, atol=1e-4)
np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
(got, _) = step(unrolled, placed)
np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
assert hidden.sharding.shard_shape(hidden.shape)[0] == 2, hidden.sharding
print("same")
"""


def test_eight_devices_compute_what_one_does():
    golden = Path(__file__).parents[1] / "golden" / "llama-untied"
    assert run_on_eight_devices(EIGHT_DEVICES, str(golden)) == "same"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "data=3 fsdp=1 tensor=1 does not fit 1 devices"),
        ({"fsdp": 2}, "does not fit 1 devices"),
        ({"tensor": 0}, "mesh axis tensor is 0"),
        ({"fsdp": -1}, "mesh axis fsdp is -1"),
    ],
)
def test_bad_meshes(sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(**sizes, devices=jax.devices()[:1])
