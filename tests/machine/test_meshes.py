"""Eight devices in every arrangement learn what one does."""

import json

import numpy as np
import pytest

from tests.conftest import STORIES
from tests.devices import run_on_eight_devices

SHAPES = [(8 // (f * t), f, t) for f in (1, 2, 4, 8) for t in (1, 2, 4, 8) if f * t <= 8]
EIGHT_DEVICES = """
import json, sys
import jax
import numpy as np

import jaxprompt
from jaxprompt.backbone import load_backbone
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import batch_shardings, make_mesh, place, replicated
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from tests.conftest import REVIEWS

folder, quantize, shapes = json.loads(sys.argv[1])
rows = [{"text": text, "target": "good" if label else "so bad"} for text, label in REVIEWS]
tree = {"model": folder, "template": "{soft:3} Review: {text} It was {target}", "data": {"train": rows},
        "method": {"init": {"type": "uniform"}}, "optimizer": {"learning_rate": 0.02}, "train": {"batch_size": 12}}
found = []
for shape in (None, *shapes):
    devices = jax.devices()[:1] if shape is None else jax.devices()
    mesh = make_mesh(*(shape or (1, 1, 1)), devices=devices)
    experiment = build(jaxprompt.load_config(tree), load_backbone(folder, mesh=mesh, quantize=quantize))
    data, trainable = TrainingData.load(experiment), experiment.init_trainable()
    optimizer = make_optimizer(experiment.config.optimizer, 3, trainable)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    state, losses = place(init_state(trainable, optimizer), replicated(mesh)), []
    for number in range(3):
        batch = data.train[number]
        state, figures = step(state, place(batch, batch_shardings(mesh, batch)))
        losses.append(float(figures["loss"]))
    found.append([losses, np.asarray(state.trainable["prompt"]["soft"]).tolist()])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_every_mesh_of_eight_devices_learns_what_one_device_does(quantize):
    assert len(SHAPES) == 10
    given = json.dumps([STORIES, quantize, SHAPES])
    one, *others = json.loads(run_on_eight_devices(EIGHT_DEVICES, given).splitlines()[-1])
    for shape, (losses, soft) in zip(SHAPES, others, strict=True):
        np.testing.assert_allclose(losses, one[0], atol=1e-5, err_msg=str(shape))
        np.testing.assert_allclose(soft, one[1], atol=1e-5, err_msg=str(shape))
