"""Whole runs of every kind, with their rows split over devices and processes, against the same ones on one device."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import STORIES
from tests.processes import run_on_reviews

PROGRAM = """
import json, sys
from pathlib import Path

from jaxprompt.machine.processes import together

folder, model, mesh, *place = sys.argv[1:]
with together(*[kind(item) for kind, item in zip((str, int, int, float), place)]):
    import jaxprompt
    from jaxprompt.backbone import load_backbone
    from jaxprompt.machine.sharding import make_mesh
    from jaxprompt.reports.terminal import Reporter

    folder = Path(folder)
    file = str(folder / "rows.jsonl")
    backbone = load_backbone(model, mesh=make_mesh(**json.loads(mesh)))
    soft = {"name": "soft", "init": {"top_k": 50}}
    words = {"type": "verbalizer", "labels": {"0": ["bad", "so sad"], "1": "good"}}
    front = {"template": "{soft:4} {text} It was {target}", "method": soft, "objective": words}
    behind = {"template": "{text} It was{soft:4} {target}", "method": soft, "objective": words}
    tasks = {
        "write": {"template": "Read this. {soft:4}Review: {text} It was {target}", "method": soft, "objective": {"type": "generation"}},
        "words": front,
        "products": {"template": "{text} It is {target}", "method": {"name": "lora", "rank": 2, "targets": ["q", "up"]}, "objective": words},
        "class": {"template": "{text} so", "method": {"name": "prefix", "length": 3}, "objective": {"type": "classifier", "labels": ["0", "1"]}},
    }
    runs = {
        "seeds": front | {"population": {"seed": [0, 1]}},
        "rates": front | {"population": {"optimizer.learning_rate": [0.2, 0.5]}},
        "tasks": {"tasks": tasks, "optimizer": {"name": "sgd", "learning_rate": 0.5, "rates": {"deltas": 0.02}}},
        "examples": {"template": "{soft:36}{text} It was {target}", "method": {"name": "cpt", "examples": 2}, "objective": words},
        "by_text": front | {"method": {"name": "idpg", "bottleneck": 4, "init": {"top_k": 50}}},
        "cached": behind | {"data": {"ahead": True, "cache": "memory"}},
        "stream": front | {"data": {"stream": True}},
        "mixed_up": {"template": "{soft:3} {text}", "method": soft, "objective": {"type": "classifier", "labels": ["0", "1"]},
                     "data": {"augment": {"mixup": 0.4}}},
        "parts": front | {"train": {"accumulate": 2}},
    }
    for name, tree in runs.items():
        shared = {"model": model, "optimizer": {"name": "sgd", "learning_rate": 0.5}, "run_dir": str(folder / name)}
        data = {"train": file, "validation": file, "validation_rows": 5} | tree.pop("data", {})
        train = {"steps": 4, "batch_size": 8, "eval_every": 2, "log_every": 1} | tree.pop("train", {})
        jaxprompt.train(shared | tree | {"data": data, "train": train}, backbone=backbone, reporter=Reporter(quiet=True))
"""


def run(folder, count, devices, mesh):
    return run_on_reviews(PROGRAM, folder, STORIES, mesh, count, devices, seconds=300)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1, 1, {})


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        pytest.param(2, 2, {}, marks=pytest.mark.slow),
        pytest.param(1, 8, {"fsdp": 4, "tensor": 2}, marks=pytest.mark.long),
    ],
)
def test_runs_of_every_kind_end_where_they_do_on_one_device(alone, tmp_path, count, devices, mesh):
    # By gradient descent: what Adam makes of a gradient of nearly nothing is rounding.
    found = run(tmp_path, count, devices, mesh)
    prompts = sorted(path.relative_to(alone) for path in alone.rglob("prompt.safetensors"))
    # Two populations of two with their best, four tasks, and six runs of one.
    assert len(prompts) == 2 * 3 + 4 + 6
    for path in prompts:
        ours, theirs = load_file(found / path), load_file(alone / path)
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=f"{path} {name}")
    figures = sorted(path.relative_to(alone) for path in alone.rglob("metrics.jsonl"))
    assert len(figures) == 4 + 4 + 6
    for path in figures:
        ours, theirs = (
            [json.loads(line) for line in (folder / path).read_text().splitlines()] for folder in (found, alone)
        )
        assert len(ours) == len(theirs) == 7
        for one, other in zip(ours, theirs, strict=True):
            one, other = (each.get("validation", each) for each in (one, other))
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5), path
