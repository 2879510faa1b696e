"""Step time and memory of prompt tuning as one thing grows and the rest stays: a small GPT-2 shape, synthetic rows.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --sweep prompt_length labels --steps 10

Sweeps the prompt's length, the batch size, the sequence length, the number of labels and the number of layers. Writes
results/scaling.jsonl, scaling.md and scaling.png. Memory is the compiler's own account of the step: `temporary` is what
a step needs beside weights and state, activations above all. Needs no downloaded model and no PyTorch.
"""

import argparse
import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import common
import jax
import numpy as np

import jaxprompt
from jaxprompt.backbone import Backbone, random_backbone
from jaxprompt.experiment import flops
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import replicated, row_sharding
from jaxprompt.models.families import family_of
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step

VOCABULARY = 8192
MIB = 2**20


@dataclass(frozen=True)
class Point:
    """What a step is measured at; the defaults are what stays while one of them is swept."""

    prompt_length: int = 20
    batch_size: int = 32
    sequence_length: int = 32
    labels: int = 2
    layers: int = 6


SWEEPS = {
    "prompt_length": (0, 1, 5, 10, 20, 50, 100, 200, 500),
    "batch_size": (1, 2, 4, 8, 16, 32, 64, 128),
    "sequence_length": (8, 16, 32, 64, 128, 256),
    "labels": (2, 10, 50, 200, 1000),
    "layers": (1, 2, 4, 6, 12),
}


def make_tokenizer():
    """A tokenizer with one token per word w0, w1, ..., so that lengths are what they are called."""
    import tokenizers
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def make_backbone(layers: int, width: int, dtype: str, remat: str) -> Backbone:
    """A GPT-2 of random weights, 64 numbers per head."""
    shape = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "n_positions": 1024, "vocab_size": VOCABULARY}
    config = family_of("gpt2").translate({"model_type": "gpt2", **shape}, set())
    return random_backbone(config, tokenizer=make_tokenizer(), dtype=dtype, remat=remat)


def rows(point: Point, count: int) -> list[dict]:
    """Texts of `sequence_length` random words; the labels are words that no text holds."""
    rng = np.random.default_rng(0)
    ids = rng.integers(point.labels + 1, VOCABULARY, (count, point.sequence_length))
    return [
        {"text": " ".join(f"w{i}" for i in line), "label": f"w{1 + number % point.labels}"}
        for number, line in enumerate(ids)
    ]


def measure(point: Point, backbone: Backbone, steps: int) -> dict:
    """Compiles and times the step of one point."""
    soft = f"{{soft:{point.prompt_length}}} " if point.prompt_length else ""
    config = jaxprompt.load_config(
        {
            "model": "random",
            "template": soft + "{text} {target}",
            # Without a prompt there is nothing to learn: then the step is a forward pass with an idle optimizer.
            "method": {"name": "soft" if soft else "none"},
            "objective": {"type": "verbalizer", "labels": [f"w{1 + i}" for i in range(point.labels)]},
            "data": {"train": rows(point, 2 * point.batch_size)},
            "optimizer": {"name": "adamw"},
            "train": {"batch_size": point.batch_size},
        }
    )
    experiment = build(config, backbone)
    data = TrainingData.load(experiment)
    trainable = experiment.init_trainable()
    optimizer = make_optimizer(config.optimizer, steps, trainable)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    state = jax.device_put(init_state(trainable, optimizer), replicated(backbone.mesh))
    batch = next(data.train_batches(0))
    placed = jax.device_put(batch, row_sharding(backbone.mesh))
    start = time.perf_counter()
    compiled = step.jitted.lower(step.frozen, state, placed).compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    seconds = []
    for number in range(steps + 1):
        start = time.perf_counter()
        state, figures = compiled(step.frozen, state, placed)
        jax.block_until_ready((state, figures))
        if number:  # the first touches its memory for the first time
            seconds.append(time.perf_counter() - start)
    count = flops.step_flops(experiment, data.hoisted, batch)
    median = statistics.median(seconds)
    return {
        **dataclasses.asdict(point),
        "step_seconds": median,
        "step_seconds_range": [min(seconds), max(seconds)],
        "examples_per_second": point.batch_size / median,
        "tokens": count.tokens,
        "tokens_per_second": count.tokens / median,
        "flops": count.total,
        "flops_per_second": count.total / median,
        "compile_seconds": compile_seconds,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "row_shape": list(batch.inputs.ids.shape),
        "loss": float(figures["loss"]),
    }


def plot(records: list[dict], path: Path) -> None:
    """Step time above, memory below, one column per sweep."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sweeps = list(dict.fromkeys(r["sweep"] for r in records))
    _, axes = plt.subplots(2, len(sweeps), figsize=(3.2 * len(sweeps), 5), squeeze=False)
    for column, sweep in enumerate(sweeps):
        mine = [r for r in records if r["sweep"] == sweep]
        x = [r[sweep] for r in mine]
        for row, (y, unit) in enumerate((("step_seconds", 1e3), ("temporary_bytes", 1 / MIB))):
            ax = axes[row][column]
            ax.plot(x, [r[y] * unit for r in mine], marker="o")
            ax.set_ylim(bottom=0)
            if sweep == "labels":
                ax.set_xscale("log")
        axes[1][column].set_xlabel(sweep.replace("_", " "))
    axes[0][0].set_ylabel("ms per step")
    axes[1][0].set_ylabel("temporary memory, MiB")
    plt.tight_layout()
    plt.savefig(path, dpi=110)


def report(records: list[dict]) -> str:
    """All sweeps as tables, below the machine that they were measured on."""
    names = ("step, ms", "examples/s", "tokens per step", "tokens/s", "GFLOP/s", "temporary MiB", "compilation, s")
    text, head = ["# Scaling", ""], ""
    for sweep in dict.fromkeys(r["sweep"] for r in records):
        where = next(f"{r['machine']}\n\n{r['shape']}" for r in records if r["sweep"] == sweep)
        text += [where, ""] if where != head else []
        head = where
        lines = [
            (
                r[sweep],
                f"{1e3 * r['step_seconds']:.1f}",
                f"{r['examples_per_second']:.0f}",
                r["tokens"],
                f"{r['tokens_per_second']:.0f}",
                f"{r['flops_per_second'] / 1e9:.1f}",
                f"{r['temporary_bytes'] / MIB:.1f}",
                f"{r['compile_seconds']:.1f}",
            )
            for r in records
            if r["sweep"] == sweep
        ]
        text += [common.table((sweep.replace("_", " "), *names), lines), ""]
        if sweep == "prompt_length":
            text += ["Length 0 has no prompt and so nothing to learn: a forward pass alone.", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", choices=SWEEPS, nargs="+", default=list(SWEEPS), help="default all")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each point (default 7)")
    parser.add_argument("--width", type=int, default=384, help="hidden size, a multiple of 64 (default 384)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots", help="as train.remat")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="default benchmarks/results")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be 1 or more")
    if args.width % 64:
        parser.error("--width must be a multiple of 64")
    where = common.machine(common.jax_devices())
    shape = f"width {args.width}, {VOCABULARY} words, {args.dtype}, remat {args.remat}; unless swept: {Point()}"
    records = []
    for sweep in args.sweep:
        for value in SWEEPS[sweep]:
            point = dataclasses.replace(Point(), **{sweep: value})
            backbone = make_backbone(point.layers, args.width, args.dtype, args.remat)
            record = {"sweep": sweep, **measure(point, backbone, args.steps), "machine": where, "shape": shape}
            records.append(record)
            print(
                f"{sweep} {value}: {1e3 * record['step_seconds']:.1f} ms, {record['temporary_bytes'] / MIB:.1f} MiB",
                flush=True,
            )
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / "scaling.jsonl"
    # Sweeps that were not repeated stay.
    found = {sweep: [r for r in (*records, *common.read_records(path)) if r["sweep"] == sweep] for sweep in SWEEPS}
    records = [r for sweep, all_of in found.items() for r in all_of if r["machine"] == all_of[0]["machine"]]
    path.unlink(missing_ok=True)
    for record in records:
        common.append_record(path, record)
    path.with_suffix(".md").write_text(report(records), encoding="utf-8")
    plot(records, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
