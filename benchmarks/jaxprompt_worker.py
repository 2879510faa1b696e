"""jaxprompt's side of `vs_peft.py`, by the library's ordinary path: config, data, train step."""

import itertools
import json
import sys
import time
from pathlib import Path

import common
import flops
import jax
import numpy as np
import worker
from prepare import config_tree

import jaxprompt
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.host import keep_freed_memory
from jaxprompt.machine.sharding import replicated, row_sharding
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Batch


class Side:
    """One workload."""

    def __init__(self, folder: Path):
        self.folder, self.workload = folder, json.loads((folder / "workload.json").read_text())

    def setup(self, remat: str | None, attention: str, unroll: bool | None, accumulate: int, steps: int) -> dict:
        """Loads everything and compiles for the batches of `steps` steps.

        Writes the starting values to init.npz and each step's row numbers to batches.npy, for the other side.
        """
        work = self.workload
        tree = config_tree(work, str(self.folder / "rows.jsonl")) | {"attention": attention, "unroll": unroll}
        tree["train"] |= {"accumulate": accumulate, "steps": steps} | ({} if remat is None else {"remat": remat})
        config = jaxprompt.load_config(tree)
        experiment = build(config)
        self.data = TrainingData.load(experiment)
        self.trainable = experiment.init_trainable()
        optimizer = make_optimizer(config.optimizer, steps, self.trainable)
        self.step = make_train_step(experiment.forward(self.data.hoisted), experiment.method, optimizer)
        mesh = experiment.backbone.mesh
        self.place = lambda batch: jax.device_put(batch, row_sharding(mesh))
        # A head that starts at 0 would give the prompt no gradient in the first step.
        keys = iter(jax.random.split(jax.random.key(1), 8))
        if "head" in self.trainable:
            head = {name: 0.1 * jax.random.normal(next(keys), v.shape) for name, v in self.trainable["head"].items()}
            self.trainable = {**self.trainable, "head": head}
        self.fresh = lambda: jax.device_put(init_state(self.trainable, optimizer), replicated(mesh))
        self.save(self.folder / "init.npz", self.trainable)
        shapes, compiling = set(), 0.0
        batches = [batch for batch, _ in zip(self.data.train_batches(0), range(steps), strict=False)]
        per_step = [[batch] if isinstance(batch, Batch) else batch for batch in batches]
        numbers = [np.concatenate([part.index[part.index >= 0] for part in parts]) for parts in per_step]
        np.save(self.folder / "batches.npy", np.stack(numbers))
        self.reset()
        for batch, parts in zip(batches, per_step, strict=True):
            shape = tuple(part.inputs.ids.shape for part in parts)
            if shape not in shapes:
                shapes.add(shape)
                took = []
                for _ in range(2):
                    start = time.perf_counter()
                    self.state, _ = self.step(self.state, self.place(batch))
                    jax.block_until_ready(self.state)
                    took.append(time.perf_counter() - start)
                compiling += max(took[0] - took[1], 0.0)
        self.reset()
        parts = list(itertools.chain(*per_step))
        counts = [flops.step_flops(experiment, self.data.hoisted, part) for part in parts]
        return {
            "compile_seconds": compiling,
            "row_shapes": sorted({_shape(part) for part in parts}),
            "hoisted": len(self.data.hoisted),
            "real_tokens_per_step": sum(count.tokens for count in counts) / steps,
            "computed_tokens_per_step": (sum(map(_area, parts)) + sum(count.shared for count in counts)) / steps,
            "matmul_flops_per_second": common.matmul_flops_per_second(work["dtype"]),
            "flops_per_step": sum(count.total for count in counts) / steps,
            "remat": config.train.remat,
            "attention": attention,
            "unroll": experiment.backbone.unrolled,
            "accumulate": accumulate,
            "devices": common.jax_devices(),
        }

    def reset(self) -> None:
        """Back to the start: the same state, the first batch."""
        self.state, self.batches = self.fresh(), self.data.train_batches(0)

    def round(self, steps: int) -> dict:
        """The next steps, packing of their rows included."""
        start = time.perf_counter()
        pending = []
        for _ in range(steps):
            batch = next(self.batches)
            self.state, figures = self.step(self.state, self.place(batch))
            pending.append(figures["loss"])
        jax.block_until_ready((self.state, pending))
        return {"seconds": (time.perf_counter() - start) / steps, "losses": [float(loss) for loss in pending]}

    def finish(self, path: str) -> dict:
        """Writes what was learned."""
        self.save(Path(path), self.state.trainable)
        peak, of = common.peak_memory()
        return {"peak_memory_bytes": peak, "peak_memory_of": of}

    @staticmethod
    def save(path: Path, trainable: dict) -> None:
        host = jax.device_get(trainable)
        np.savez(path, **host["prompt"], **{f"head_{name}": value for name, value in host.get("head", {}).items()})


def _shape(batch: Batch) -> str:
    sides = [batch.inputs] if batch.source is None else [batch.source, batch.inputs]
    return " and ".join("{}x{}".format(*side.ids.shape) for side in sides)


def _area(batch: Batch) -> int:
    return batch.inputs.ids.size + (0 if batch.source is None else batch.source.ids.size)


if __name__ == "__main__":
    keep_freed_memory()  # as the commands do
    worker.serve(Side(Path(sys.argv[1])))
