"""Runs on several processes against runs on one: every kind of model, methods, evaluation, generation, checkpoints."""

import json
import shutil

import numpy as np
import pytest

from jaxprompt.prompts import load_prompt
from tests.conftest import GOLDEN
from tests.processes import run_on_reviews

long = pytest.mark.long
FAMILIES = ("gpt2", "bert", "t5")
# Learns, evaluates and generates, and leaves in a folder what that gave; or resumes runs that are there.
PROGRAM = """
import dataclasses, json, sys
from pathlib import Path

from jaxprompt.machine.processes import is_first, together

folder, golden, mesh, *place = sys.argv[1:]
folder, golden = Path(folder), Path(golden)
with together(*[kind(item) for kind, item in zip((str, int, int, float), place)]):
    import jax
    import jaxprompt
    from jaxprompt.backbone import load_backbone, random_backbone
    from jaxprompt.inference.predict import evaluate_run
    from jaxprompt.machine.sharding import make_mesh
    from jaxprompt.reports.terminal import Reporter

    file = folder / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    stories = load_backbone(golden / "stories260K")
    templates = {
        "gpt2": "{text} It was {target}", "bert": "{text}", "t5": "{text} {target}",
    }
    said = {}
    for family in FAMILIES:
        template = templates[family]
        config = dataclasses.replace(load_backbone(golden / family).config, vocab_size=512)
        backbone = random_backbone(config, tokenizer=stories.tokenizer, mesh=make_mesh(**json.loads(mesh)))
        # Fresh weights are so small that a prompt would hardly matter.
        grown = jax.tree.map_with_path(
            lambda path, x: x if "norm" in jax.tree_util.keystr(path) else 5 * x, backbone.params
        )
        backbone = dataclasses.replace(backbone, params=grown)
        for method in ("soft", "prefix"):
            run = folder / f"{family}.{method}"
            tree = {
                "model": family,
                "template": template if method == "prefix" else "{soft:3} " + template,
                "method": {"name": method, "init": {"type": "uniform"}} | ({"length": 3} if method == "prefix" else {}),
                "objective": {"type": "classifier"} if family == "bert" else {"type": "generation"},
                "data": {"train": str(file), "validation": str(file), "validation_rows": 5},
                "optimizer": {"learning_rate": 0.01},
                "train": {"steps": 4, "batch_size": 8, "eval_every": 2, "log_every": 1, "checkpoint_every": 2},
                "run_dir": str(run),
            }
            result = jaxprompt.train(tree, backbone=backbone, reporter=Reporter(quiet=True))
            found = {"evaluated": evaluate_run(run, backbone=backbone)["loss"]}
            if family != "bert":
                found["written"] = jaxprompt.generate(backbone, rows[:2], result.prompt, max_new_tokens=4)
            said[run.name] = found
    if is_first():
        (folder / "said.json").write_text(json.dumps(said))
"""


def run(folder, count, devices, mesh, families=FAMILIES):
    program = f"FAMILIES = {families!r}\n{PROGRAM}"
    return run_on_reviews(program, folder, GOLDEN, mesh, count, devices, seconds=200)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1, 1, {})


def same(one, other, families=FAMILIES):
    """Losses, prompts, what an evaluation gives and what is written."""
    said, expected = (json.loads((folder / "said.json").read_text()) for folder in (one, other))
    assert list(said) == [f"{family}.{method}" for family in families for method in ("soft", "prefix")]
    for name, found in said.items():
        ours, theirs = load_prompt(one / name), load_prompt(other / name)
        assert ours.arrays.keys() == theirs.arrays.keys()
        for part in ours.arrays:
            np.testing.assert_allclose(ours.arrays[part], theirs.arrays[part], atol=1e-5, err_msg=name)
        for part in ours.head:
            np.testing.assert_allclose(ours.head[part], theirs.head[part], atol=1e-5, err_msg=name)
        assert losses(one / name) == pytest.approx(losses(other / name), abs=1e-5), name
        assert found["evaluated"] == pytest.approx(expected[name]["evaluated"], abs=1e-5), name
        assert found.get("written") == expected[name].get("written"), name


def losses(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record.get("loss") or record["validation"]["loss"] for record in records]


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        pytest.param(2, 2, {"fsdp": 2}, marks=pytest.mark.slow),
        pytest.param(2, 1, {}, marks=long),
        pytest.param(4, 1, {"data": 2, "fsdp": 2}, marks=long),
        pytest.param(4, 2, {"fsdp": 2, "tensor": 2}, marks=long),
    ],
)
def test_processes_end_where_one_does(alone, tmp_path, count, devices, mesh):
    same(run(tmp_path, count, devices, mesh), alone)


@pytest.mark.parametrize(
    ("first", "then", "families"),
    [
        pytest.param(2, 1, FAMILIES[:1], marks=pytest.mark.slow),
        pytest.param(4, 1, FAMILIES, marks=long),
        pytest.param(4, 2, FAMILIES, marks=long),
        pytest.param(1, 4, FAMILIES, marks=long),
    ],
)
def test_a_run_goes_on_on_another_number_of_processes(alone, tmp_path, first, then, families):
    run(tmp_path, first, 1, {}, families)
    for name in json.loads((tmp_path / "said.json").read_text()):
        # As if it had been cut off behind step 2.
        shutil.rmtree(tmp_path / name / "checkpoints" / "4")
        (tmp_path / name / "result.json").unlink()
    same(run(tmp_path, then, 1, {}, families), alone, families)
