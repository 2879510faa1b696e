"""That the scripts run: what they time goes through the library's own parts, whose shapes change."""

import json
import random

import numpy as np
import pytest
import quantization
import scaling
import throughput
from jaxprompt_worker import Side
from workloads import Workload

from tests.conftest import STORIES

SCRIPTS = ("card", "compiled", "loading", "quality", "quantization", "scaling", "throughput", "vs_peft")
WORDS = ["the", "film", "was", "a", "slow", "and", "very", "quiet", "story", "of", "two", "old", "friends"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_imported(script):
    assert __import__(script).main


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """Reviews with labels, as a JSONL file."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("reviews") / "rows.jsonl"
    rows = [{"sentence": " ".join(rng.choices(WORDS, k=rng.randint(3, 9))), "label": str(n % 2)} for n in range(32)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "verbalizer", "labels": {"0": "bad", "1": "good"}, "template": "{soft:3} {sentence} {target}"},
        {"objective": "classifier", "labels": ("0", "1"), "template": "{soft:3} {sentence}"},
    ],
)
def test_the_worker_of_a_comparison_takes_its_steps(reviews, stories, objective):
    workload = Workload(STORIES, "sst2", batch_size=8, steps=2, **objective)
    settings = vars(workload) | {"batches": 4, "name": "tiny", "prompt_length": workload.prompt_length}
    (reviews.parent / "workload.json").write_text(json.dumps(settings))
    side = Side(reviews.parent)
    found = side.setup(None, "xla", None, 1, steps=2)
    assert found["flops_per_step"] > 0 and found["real_tokens_per_step"] > 8 * 3
    assert np.load(reviews.parent / "batches.npy").shape == (2, 8)
    assert len(np.load(reviews.parent / "init.npz").files) == (1 if objective["objective"] == "verbalizer" else 3)
    losses = side.round(2)["losses"]
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.slow
def test_throughput_scaling_and_quantization_take_a_step(reviews, stories):
    template = ["--model", STORIES, "--data", str(reviews), "--template", "{soft} {sentence} {target}"]
    args = throughput.parser().parse_args([*template, "--prompt-length", "2", "--batch-size", "4", "--steps", "1"])
    record = throughput.measure(args)
    assert record["flops_per_step"] > 0 and "share of it" in throughput.text(record)

    point = scaling.Point(prompt_length=2, batch_size=2, sequence_length=8, labels=2, layers=1)
    assert scaling.measure(point, scaling.make_backbone(1, 64, "float32", "dots"), steps=1)["flops"] > 0

    case = {"template": "{soft:3} {sentence} {target}"}
    rows = [{**json.loads(line), "target": "good"} for line in reviews.read_text().splitlines()]
    words = np.asarray(stories.params["word"]["weight"])
    found = quantization.gradients(stories, case, rows, words, instructed=False)
    assert len(found) > 1 and all(np.linalg.norm(gradient) > 0 for gradient in found)
