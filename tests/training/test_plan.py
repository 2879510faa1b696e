"""What a plan says beside what a step takes: planned from shapes, and then trained with weights on eight devices."""

import json

import pytest

from tests.devices import run_on_eight_devices

PROGRAM = """
import json, sys
import jax
from jaxprompt import config as configs
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import batch_shardings, replicated
from jaxprompt.machine.targets import TARGETS
from jaxprompt.models.presets import PRESETS
from jaxprompt.training.alone import Alone
from jaxprompt.training.plan import Devices, plan, subject

PRESETS |= {
    "decoder": {**PRESETS["gpt2-small"], "n_layer": 5, "n_embd": 32, "n_head": 4},
    "encoder": {**PRESETS["bert-base"], "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
    "encoder-decoder": {**PRESETS["t5-v1_1-small"], "num_layers": 4, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4},
}
rows = [{"text": "a dog ran home " * (1 + n % 3), "target": "and slept", "label": str(n % 2)} for n in range(16)]
tree = json.loads(sys.argv[1]) | {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}
tree["data"] = {"train": rows}
config = configs.load_config(tree)
where = Devices(jax.devices(), TARGETS["h100"], 80e9, True)
(said,) = plan(subject(config, jax.devices()[0], None, None), where, (2, 2, 2), 3, print)["meshes"]

experiment = build(config)
data = TrainingData.load(experiment)
alone, mesh = Alone(experiment, data, None), experiment.backbone.mesh
frozen = experiment.forward(data.hoisted).frozen()
alone.compile(frozen)
state = jax.device_put(alone.start(experiment.init_trainable()), replicated(mesh))
batches = [jax.device_put(batch, batch_shardings(mesh, batch)) for batch in (data.train[0], data.train[1])]

def held(tree):
    shards = (shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)
    return sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0])

live = held((frozen, state, batches))
memory = alone.step.jitted.lower(frozen, state, batches[0]).compile().memory_analysis()
state, _ = alone.step(state, batches[0])
print(json.dumps([said, live, memory.temp_size_in_bytes, held(frozen["params"])]))
"""
TEMPLATES = {
    "decoder": {"template": "{soft:5} {text} {target}", "method": {"name": "soft"}},
    "encoder": {"template": "{soft:5} {text}", "objective": {"type": "classifier", "labels": ["0", "1"]}},
    "encoder-decoder": {"template": "{soft:5} {text} {target}"},
}


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("encoder", "encoder-decoder")]


@pytest.mark.parametrize("kind", ["decoder", *SLOW])
def test_a_plan_agrees_with_what_a_step_takes(kind):
    tree = {"model": f"random:{kind}", "train": {"batch_size": 8}, **TEMPLATES[kind]}
    said, live, temporary, weights = json.loads(run_on_eight_devices(PROGRAM, json.dumps(tree)).splitlines()[-1])
    parts = said["bytes"]
    held = sum(parts[part] for part in ("weights", "prefix_and_labels", "prompt", "optimizer", "batches"))
    assert parts["weights"] == weights and held == live
    assert parts["activations"] + parts["temporary"] == temporary and parts["activations"] > 0
    # Nothing is counted twice, and the peak is all of it.
    assert said["peak_bytes"] == pytest.approx(live + temporary, rel=0.02) and said["fits"]
    # Products are recomputed at most, and split over the devices that share them.
    assert said["needed_flops"] < said["compiled_flops"] < 8 * said["needed_flops"]
    assert said["sent_bytes"]["all-gather"] > 0 and said["sent_bytes"]["all-reduce"] > 0


ACCUMULATED = PROGRAM.partition("experiment = build(config)")[0] + "print(json.dumps(said))"


@pytest.mark.slow
def test_parts_of_a_batch_are_added_up():
    tree = {"model": "random:decoder", **TEMPLATES["decoder"]}
    whole, parts = (
        json.loads(run_on_eight_devices(ACCUMULATED, json.dumps(tree | {"train": train})).splitlines()[-1])
        for train in ({"batch_size": 8}, {"batch_size": 16, "accumulate": 2})
    )
    assert parts["rows"] == whole["rows"] and parts["bytes"]["gradient"] > 0
    assert parts["bytes"]["batches"] == 2 * whole["bytes"]["batches"]
    assert parts["compiled_flops"] == pytest.approx(2 * whole["compiled_flops"], rel=0.01)
    assert parts["bytes"]["temporary"] == pytest.approx(whole["bytes"]["temporary"], rel=0.1)
