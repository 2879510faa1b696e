"""A batch in parts is the same batch."""

import json

import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from tests.conftest import STORIES


def config(rows, accumulate, **data):
    return {
        "model": STORIES,
        "template": "{soft:2}{text}",
        "objective": {"type": "classifier"},
        "optimizer": {"learning_rate": 0.01},
        "data": {"train": rows, **data},
        # 12 rows: every second batch spans two epochs.
        "train": {"steps": 4, "batch_size": 8, "accumulate": accumulate, "log_every": 1},
    }


@pytest.mark.parametrize(
    ("parts", "data"), [(2, {}), (8, {}), (4, {"balance": False}), (4, {"shuffle": False}), (4, {"packing": False})]
)
def test_the_parts_of_a_step_are_its_examples(stories, rows, parts, data):
    loaded = [TrainingData.load(build(load_config(config(rows, n, **data)), stories)) for n in (1, parts)]
    for start in (0, 3):
        for _, whole, split in zip(range(4), *(each.train_batches(start) for each in loaded), strict=False):
            assert len(split) == parts
            numbers = [part.index[part.index >= 0] for part in split]
            assert {len(part) for part in numbers} == {8 // parts}
            assert sorted(np.concatenate(numbers)) == sorted(whole.index[whole.index >= 0])


def test_a_run_in_parts_has_the_losses_of_one_in_whole_batches(stories, rows, tmp_path, quiet):
    losses, prompts = [], []
    for accumulate in (1, 4):
        tree = config(rows, accumulate, packing=False) | {"run_dir": str(tmp_path / str(accumulate))}
        result = jaxprompt.train(tree, backbone=stories, reporter=quiet)
        records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
        losses.append([record["loss"] for record in records])
        prompts.append(result.prompt)
    assert len(losses[0]) == 4 and len({round(loss, 3) for loss in losses[0]}) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(prompts[1].soft, prompts[0].soft, atol=1e-3)
    np.testing.assert_allclose(prompts[1].head["weight"], prompts[0].head["weight"], atol=1e-3)
