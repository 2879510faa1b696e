"""Everything that is measured on a card, on a CPU with tiny models."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "card.py"
PEFT = importlib.util.find_spec("peft") is not None
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "su") for b in ("ra", "t", "ving", "s", "der")]


@pytest.fixture
def data_root(tmp_path):
    """Passages enough for some batches."""
    rng, folder = random.Random(0), tmp_path / "data" / "boolq"
    folder.mkdir(parents=True)
    rows = [{"passage": " ".join(rng.choices(WORDS, k=400)), "question": "so", "label": True} for _ in range(120)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [
        ["compile"],
        pytest.param(
            ["step", "cold", "others", "generate"], marks=pytest.mark.skipif(not PEFT, reason="needs the extra bench")
        ),
    ],
)
def test_a_dry_run_measures_all_of_it(data_root, tmp_path, stages):
    command = [sys.executable, str(SCRIPT), "--dry", "--minutes", "15", "--only", *stages, "--results", str(tmp_path)]
    command += ["--data-root", str(data_root), "--work-dir", str(tmp_path / "work")]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": ""}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "card_gpu.jsonl").read_text().splitlines()]
    expected = {"compile": 2, "step": 2, "cold": 1, "others": 1, "generate": 1}
    assert len(records) == sum(expected[stage] for stage in stages)
    assert not any("failed" in record for record in records)
    for record in records:
        if record["measured"] == "step":
            assert record["first_loss_difference"] < 2e-2
    assert all(f"`{record['workload']}`" in (tmp_path / "card_gpu.md").read_text() for record in records)
