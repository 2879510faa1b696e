"""jaxprompt's side of `vs_peft.py` and `card.py`, by the library's ordinary path: config, data, train step."""

import dataclasses
import itertools
import sys
import time
from pathlib import Path

import common
import jax
import numpy as np
import trace_shares as trace
import worker
from drawn import drawn_backbone
from prepare import config_tree, read_workload
from transformers import AutoTokenizer
from workloads import Workload

import jaxprompt
from jaxprompt.backbone import Backbone
from jaxprompt.experiment import flops
from jaxprompt.experiment.build import build, configured_backbone
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.rows import training_rows
from jaxprompt.inference.generate import generate
from jaxprompt.machine import compiler
from jaxprompt.machine.host import keep_freed_memory
from jaxprompt.machine.sharding import make_mesh, replicated, row_sharding
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Batch


class Side:
    """One workload."""

    def __init__(self, folder: Path):
        self.folder, self.workload = folder, read_workload(folder)

    def setup(
        self,
        remat: str | None,
        attention: str,
        unroll: bool | None,
        accumulate: int,
        steps: int,
        drawn: bool = False,
        options: dict | None = None,
    ) -> dict:
        """Loads everything and compiles for the batches of `steps` steps.

        Writes the starting values to init.npz and each step's row numbers to batches.npy, for the other side.

        Args:
          drawn: the weights are drawn on the devices, not read.
          options: of the compiler, in place of the library's own.
        """
        work = self.workload
        if options is not None:
            compiler.GPU_OPTIONS = options
            compiler.options.cache_clear()
        tree = config_tree(work, str(self.folder / "rows.jsonl")) | {"attention": attention, "unroll": unroll}
        tree["train"] |= {"accumulate": accumulate, "steps": steps} | ({} if remat is None else {"remat": remat})
        config = jaxprompt.load_config(tree)
        start = time.perf_counter()
        experiment = self.experiment = build(config, self._drawn(config) if drawn else configured_backbone(config))
        jax.block_until_ready(experiment.backbone.params)
        loading = time.perf_counter() - start
        self.data = TrainingData.load(experiment).cached(experiment, self.folder)
        self.trainable = experiment.init_trainable()
        optimizer = make_optimizer(config.optimizer, steps, self.trainable)
        forward = experiment.forward(self.data.hoisted)
        self.step = make_train_step(forward, experiment.method, optimizer)
        mesh = experiment.backbone.mesh
        self.place = lambda batch: jax.device_put(batch, row_sharding(mesh))
        look_ahead = jax.jit(forward.look_ahead)
        kept = self.data.fill_caches(lambda batch: look_ahead(self.step.frozen, self.place(batch)))
        # A head that starts at 0 would give the prompt no gradient in the first step.
        keys = iter(jax.random.split(jax.random.key(1), 8))
        if "head" in self.trainable:
            head = {name: 0.1 * jax.random.normal(next(keys), v.shape) for name, v in self.trainable["head"].items()}
            self.trainable = {**self.trainable, "head": head}
        self.fresh = lambda: jax.device_put(init_state(self.trainable, optimizer), replicated(mesh))
        self.save(self.folder / "init.npz", self.trainable)
        batches = [batch for batch, _ in zip(self.data.train_batches(0), range(steps), strict=False)]
        per_step = [[batch] if isinstance(batch, Batch) else batch for batch in batches]
        numbers = [np.concatenate([part.index[part.index >= 0] for part in parts]) for parts in per_step]
        np.save(self.folder / "batches.npy", np.stack(numbers))
        self.reset()
        compiling = [self._first(batch) for batch in self._new_shapes(batches, per_step)]
        self.reset()
        parts = list(itertools.chain(*per_step))
        counts = [flops.step_flops(experiment, self.data.hoisted, part) for part in parts]
        return {
            "loading_seconds": loading,
            "compile_seconds": sum(compiling),
            "compile_seconds_each": compiling,
            "options": compiler.options(),
            "row_shapes": sorted({_shape(part) for part in parts}),
            "hoisted": len(self.data.hoisted),
            "kept_bytes": kept,
            "real_tokens_per_step": sum(count.tokens for count in counts) / steps,
            "computed_tokens_per_step": (sum(map(_area, parts)) + sum(count.shared for count in counts)) / steps,
            "matmul_flops_per_second": common.matmul_flops_per_second(work["dtype"]),
            "flops_per_step": sum(count.total for count in counts) / steps,
            "remat": config.train.remat,
            "attention": experiment.backbone.module.attention,
            "unroll": experiment.backbone.unrolled,
            "accumulate": accumulate,
            "devices": common.jax_devices(),
        }

    def _drawn(self, config: jaxprompt.Config) -> Backbone:
        """The config's backbone, but for its weights."""
        work = Workload(**{field.name: self.workload[field.name] for field in dataclasses.fields(Workload)})
        work = dataclasses.replace(work, model=self.workload["shape"])
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        return drawn_backbone(work, tokenizer, make_mesh(), config.attention, bool(config.unroll), config.train.remat)

    @staticmethod
    def _new_shapes(batches: list, per_step: list) -> list:
        """The first batch of each shape."""
        first = {}
        for batch, parts in zip(batches, per_step, strict=True):
            first.setdefault(tuple(part.inputs.ids.shape for part in parts), batch)
        return list(first.values())

    def _first(self, batch) -> float:
        """Seconds by which a first step of a shape is longer than a second one."""
        took = []
        for _ in range(2):
            start = time.perf_counter()
            self.state, _ = self.step(self.state, self.place(batch))
            jax.block_until_ready(self.state)
            took.append(time.perf_counter() - start)
        return max(took[0] - took[1], 0.0)

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

    def profile(self, steps: int, folder: str) -> dict:
        """What the device does in a step."""
        jax.profiler.start_trace(folder)
        found = self.round(steps)
        jax.profiler.stop_trace()
        return {"seconds": found["seconds"], **trace.shares(Path(folder), steps)}

    def generate(self, count: int, tokens: int) -> dict:
        """Writes so many tokens behind the first rows' texts."""
        experiment = self.experiment
        rows = list(training_rows(experiment.config))[:count]
        start = time.perf_counter()
        prompt = experiment.prompt(self.state.trainable)
        texts = generate(experiment.backbone, rows, prompt, max_new_tokens=tokens, batch_size=count)
        return {"seconds": time.perf_counter() - start, "texts": texts[:2]}

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
