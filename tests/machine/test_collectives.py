"""What a train step moves between devices, read in its compiled program."""

import json

import numpy as np
import pytest

from tests.conftest import GOLDEN
from tests.devices import run_on_eight_devices

# A Llama of 3 layers; unrolled, each layer's collectives are in the text by themselves. No parameter of it has as many numbers
# as what is learned.
EIGHT_DEVICES = """
import dataclasses, json, re, sys
import jax
import jaxprompt
from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import batch_shardings, make_mesh, place, replicated
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step

stories = load_backbone(sys.argv[1])
sizes = {"num_layers": 3, "hidden_size": 64, "num_heads": 8, "num_kv_heads": 8, "head_dim": 8, "mlp_size": 128}
backbone = random_backbone(
    dataclasses.replace(stories.config, **sizes), tokenizer=stories.tokenizer,
    mesh=make_mesh(**json.loads(sys.argv[2])), unroll=sys.argv[3] == "unrolled",
)
rows = [{"text": f"a dog and {number} cats", "target": "good"} for number in range(16)]
tree = {"model": "given", "template": "{soft:5} {text} {target}", "data": {"train": rows}, "train": {"batch_size": 16},
        "method": {"init": {"type": "uniform"}}}
if sys.argv[4] == "soft behind text":
    tree |= {"template": "Say it: {soft:5} {text} {target}"}
if sys.argv[4] == "prefix":
    tree |= {"template": "{text} {target}", "method": {"name": "prefix", "length": 5, "init": {"type": "normal"}}}
experiment = build(jaxprompt.load_config(tree), backbone)
data, trainable = TrainingData.load(experiment), experiment.init_trainable()
optimizer = make_optimizer(experiment.config.optimizer, 3, trainable)
step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
batch = data.train[0]
batch, state = place(batch, batch_shardings(backbone.mesh, batch)), place(init_state(trainable, optimizer), replicated(backbone.mesh))
program = step.jitted.lower(step.frozen, state, batch).compile().as_text()
found = []
for line in program.splitlines():
    match = re.search(r"= (\\(.*?\\)|\\S+) (all-[a-z]+(?:-to-all)?|reduce-scatter|collective-permute)(?:-start)?\\(", line)
    if match:
        shapes = [tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\\w\\d+\\[([\\d,]*)\\]", match[1])]
        found.append((match[2], shapes))
print(json.dumps({"collectives": found, "rows": batch.inputs.ids.shape}))
"""
LAYERS, WIDTH, MLP = 3, 64, 128
# Soft rows, and with the text behind them that all rows share.
PROMPT, SHARED = 5, 7
MATRICES = {(WIDTH, WIDTH), (MLP, WIDTH), (WIDTH, MLP)}


def moved(mesh, layers="unrolled", method="soft"):
    arguments = str(GOLDEN / "stories260K"), json.dumps(mesh), layers, method
    found = json.loads(run_on_eight_devices(EIGHT_DEVICES, *arguments).splitlines()[-1])
    return [(kind, [tuple(shape) for shape in shapes]) for kind, shapes in found["collectives"]], found["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["unrolled", "a loop"])
@pytest.mark.parametrize(
    ("method", "learned"),
    [("soft", PROMPT * WIDTH), ("soft behind text", PROMPT * WIDTH), ("prefix", 2 * LAYERS * PROMPT * WIDTH)],
)
def test_data_parallelism_moves_one_sum_as_large_as_the_prompt(layers, method, learned):
    collectives, _ = moved({"data": 8}, layers, method)
    assert [kind for kind, _ in collectives] == ["all-reduce"]
    # With the loss and how much was scored.
    assert sum(int(np.prod(shape)) for shape in collectives[0][1]) == learned + 2


@pytest.mark.slow
def test_fsdp_gathers_weights_once_each_way_and_reduces_none():
    collectives, _ = moved({"data": 1, "fsdp": 8})
    gathered = [shape for kind, shapes in collectives if kind == "all-gather" for shape in shapes]
    matrices = [tuple(sorted(shape)) for shape in gathered if len(shape) == 2]
    assert {kind for kind, _ in collectives} == {"all-gather", "all-reduce"}
    # q, k, v and out; gate, up and down; forward and backward. The embedding is gathered by itself.
    assert matrices.count((WIDTH, WIDTH)) == 2 * 4 * LAYERS
    assert matrices.count((WIDTH, MLP)) == 2 * 3 * LAYERS
    reduced = [shape for kind, shapes in collectives if kind == "all-reduce" for shape in shapes]
    assert not MATRICES & {shape[-2:] for shape in reduced}
    # The prompt's own pass is so short that what it computes is moved, not the weights.
    assert all(int(np.prod(shape)) <= SHARED * MLP for shape in reduced)


@pytest.mark.slow
def test_tensor_parallelism_moves_activations_alone():
    collectives, (rows, tokens) = moved({"data": 1, "tensor": 8})
    shapes = [shape for _, of in collectives for shape in of]
    assert shapes
    assert not MATRICES & set(shapes)
    # Those of all tokens are summed behind attention and behind the MLP; of the last layer, those that are scored.
    whole = [shape for shape in shapes if shape == (1, rows * tokens + SHARED, WIDTH)]
    assert len(whole) >= 2 * (LAYERS - 1)
