"""What a chip that is not at hand would run: the train steps of `vs_peft.py`, compiled for it and read.

    pip install -e . "jax[cuda12]"          # for --target h100
    pip install -e ".[tpu]"                 # for --target v5e, v6e, v5p
    JAX_PLATFORMS=cpu python benchmarks/compiled.py --target h100 --data-root DATA --workload all
    JAX_PLATFORMS=cpu python benchmarks/compiled.py --target v5e --data-root DATA --workload llama32-3b-soft200
    JAX_PLATFORMS=cpu python benchmarks/compiled.py --target v5e --mesh 1x8x2 --topology 4x4 --data-root DATA \\
        --workload llama32-3b-soft200-batch64

XLA compiles for a GPU by its description alone (h100.txtpb), and for a TPU by libtpu. Nothing runs, and no weights are
made: what comes out is the program, hence its memory, what it moves and multiplies, and how long that takes at least by
the chip's published speeds. It is no measurement of time. For a GPU, products are cuBLAS's, as XLA tries Triton's in
their place only on a card. For a TPU, bytes moved are those of its HBM: what the compiler keeps in the chip's own memory
is left out, though its own count (`counted_bytes`) has it. Writes results/compiled_TARGET.jsonl and .md.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections import Counter
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import prepare
from drawn import abstract_backbone
from jax.sharding import AxisType
from workloads import WORKLOADS

import jaxprompt
from jaxprompt.experiment import flops
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.build import build as build_experiment
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine import hlo
from jaxprompt.machine.ahead import shapes_on
from jaxprompt.machine.sharding import MESH_AXES, replicated, row_sharding
from jaxprompt.machine.targets import TARGETS, Target, devices_of
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import TrainState, make_train_step

BATCHES = 8


@functools.cache
def texts_of(name: str, data_root: Path) -> tuple:
    """The tokenizer of a workload, and rows for some batches."""
    workload = WORKLOADS["gpu"][name]
    rows = prepare.shuffled_rows(workload, data_root)
    tokenizer = prepare.make_tokenizer(workload, rows)
    if workload.data == "lm":
        rows = prepare.equal_rows(rows, tokenizer, workload.tokens)
    return tokenizer, rows[: BATCHES * workload.batch_size]


def experiment_of(name: str, args: argparse.Namespace, mesh, attention: str, unroll: bool) -> Experiment:
    """A workload's experiment, its rows in memory."""
    workload, (tokenizer, rows) = WORKLOADS["gpu"][name], texts_of(name, args.data_root)
    backbone = abstract_backbone(workload, tokenizer, mesh, attention, unroll, args.remat)
    tree = prepare.config_tree(dataclasses.asdict(workload), rows)
    # A start that asks for no weights.
    tree["method"]["init"] = {"type": "uniform"}
    return build_experiment(jaxprompt.load_config(tree), backbone)


def compile_step(experiment: Experiment, data: TrainingData, batch):
    """The compiled train step for batches of such shapes."""
    backbone, mesh = experiment.backbone, experiment.backbone.mesh
    optimizer = make_optimizer(experiment.config.optimizer, 100, jax.eval_shape(experiment.init_trainable))
    frozen = {"params": backbone.params, "objective": None, "hard_prefix": None}
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer, frozen)

    def start():
        trainable = experiment.init_trainable()
        return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), jax.random.key(0))

    state, batch = shapes_on(replicated(mesh), jax.eval_shape(start)), shapes_on(row_sharding(mesh), batch)
    # On a card XLA would try Triton's products in cuBLAS's place; here it cannot.
    options = {"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else {}
    return step.jitted.lower(frozen, state, batch).compile(compiler_options=options)


def measure(name: str, args: argparse.Namespace, mesh, attention: str, unroll: bool) -> dict:
    """The record of one workload, with the most frequent of its row shapes."""
    target = TARGETS[args.target]
    experiment = experiment_of(name, args, mesh, attention, unroll)
    data = TrainingData.load(experiment)
    batches = [batch for batch, _ in zip(data.train_batches(0), range(BATCHES), strict=False)]
    shape, _ = Counter(batch.inputs.ids.shape for batch in batches).most_common(1)[0]
    batches = [batch for batch in batches if batch.inputs.ids.shape == shape]
    counts = [flops.step_flops(experiment, data.hoisted, batch) for batch in batches]
    record = {
        "card": target.name,
        "versions": common.versions("libtpu") if target.platform == "tpu" else common.versions(),
        "workload": name,
        "mesh": "x".join(map(str, mesh.devices.shape)),
        "attention": experiment.backbone.module.attention,
        "unroll": unroll,
        "remat": args.remat,
        "row_shape": list(shape),
        "tokens": statistics.mean(count.tokens for count in counts),
        # Of one chip.
        "needed_flops": statistics.mean(count.total for count in counts) / mesh.size,
    }
    start = time.perf_counter()
    try:
        program = compile_step(experiment, data, batches[0])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"refused": next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)}
    took = time.perf_counter() - start
    kernels, memory, counted = hlo.kernels(program.as_text()), program.memory_analysis(), program.cost_analysis()
    if args.kernels:
        show(kernels, args.kernels, target)
    moved, collectives = sum(kernel.bytes * kernel.times for kernel in kernels), Counter()
    for kernel in kernels:
        if kernel.collective:
            collectives[kernel.collective] += kernel.bytes * kernel.times
    products = sum((Counter({t: f * k.times for t, f in k.flops.items()}) for k in kernels), Counter())
    if target.platform == "tpu":  # what it needs next is fetched while it multiplies
        least = max(moved / target.bandwidth, sum(products.values()) / target.products["bf16"])
    else:
        least = sum(least_seconds(kernel, target) * kernel.times for kernel in kernels)
    return record | {
        "product_flops": dict(products),
        "moved_bytes": moved,
        "counted_bytes": counted["bytes accessed"],
        "counted_flops": counted["flops"],
        "collective_bytes": dict(collectives),
        "kernels": sum(kernel.times for kernel in kernels),
        "least_seconds": least,
        "weight_bytes": memory.argument_size_in_bytes,
        "step_bytes": memory.temp_size_in_bytes,
        "compile_seconds": took,
    }


def least_seconds(kernel: hlo.Kernel, target: Target) -> float:
    """How long a kernel takes at the card's published speeds, started in no time."""
    products = sum(count / target.products.get(kind, target.products["bf16"]) for kind, count in kernel.flops.items())
    return max(kernel.bytes / target.bandwidth, products)


def show(kernels: list[hlo.Kernel], count: int, target: Target) -> None:
    """Prints the kernels that take longest."""
    for kernel in sorted(kernels, key=lambda k: -least_seconds(k, target) * k.times)[:count]:
        moved, took = kernel.bytes * kernel.times / 1e9, 1e3 * least_seconds(kernel, target) * kernel.times
        print(f"{took:8.3f} ms {moved:7.2f} GB {kernel.times:4} x {kernel.name:40} {kernel.operation[-90:]}")


def report(records: list[dict], target: Target) -> str:
    """The table of the newest record of each workload and variant."""
    newest = {(r["workload"], r.get("mesh", "1x1x1"), r["attention"], r["unroll"], r["remat"]): r for r in records}
    head = (
        "workload",
        "mesh",
        "attention",
        "layers",
        "remat",
        "rows",
        "real tokens",
        "kernels",
        "GB moved",
        "least ms",
    )
    head += ("ms of products needed", "step GB", "weights GB", "between chips GB", "compiled in s")
    lines = []
    for r in newest.values():
        line = [f"`{r['workload']}`", r.get("mesh", "1x1x1"), r["attention"], "unrolled" if r["unroll"] else "loop"]
        line += [r["remat"], "x".join(map(str, r["row_shape"])), f"{r['tokens']:.0f}"]
        if "refused" in r:
            lines.append((*line, *("does not fit", "", "", "", "", "", "", "")))
            continue
        between = ", ".join(f"{kind} {b / 1e9:.2f}" for kind, b in sorted(r.get("collective_bytes", {}).items()))
        line += [r["kernels"], f"{r['moved_bytes'] / 1e9:.1f}", f"{1e3 * r['least_seconds']:.1f}"]
        line += [f"{1e3 * r['needed_flops'] / target.products['bf16']:.1f}", f"{r['step_bytes'] / 1e9:.1f}"]
        # A compiler may be content with what is too much beside the weights.
        line[-1] += " (too much)" if r["weight_bytes"] + r["step_bytes"] > target.memory else ""
        lines.append((*line, f"{r['weight_bytes'] / 1e9:.1f}", between, f"{r['compile_seconds']:.0f}"))
    text = [f"# Train steps compiled for {target.name}, none at hand", "", f"{records[-1]['versions']}", ""]
    text += ["All figures are of one chip. The mesh is data x fsdp x tensor.", ""]
    return "\n".join([*text, common.table(head, lines), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="h100", help="default h100")
    parser.add_argument("--mesh", default="1x1x1", help="DATAxFSDPxTENSOR chips (default 1x1x1)")
    parser.add_argument("--topology", help="of the chips, such as 4x4 (default: the smallest)")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--workload", choices=["all", *WORKLOADS["gpu"]], default="all", help="default all")
    parser.add_argument("--attention", nargs="+", help="default xla and what is made for the chip")
    parser.add_argument("--layers", choices=("loop", "unrolled"), nargs="+", default=["loop", "unrolled"])
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots", help="as train.remat")
    parser.add_argument("--kernels", type=int, default=0, help="also print so many kernels (default 0)")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="default benchmarks/results")
    args = parser.parse_args()
    target, shape = TARGETS[args.target], tuple(map(int, args.mesh.split("x")))
    attentions = args.attention or ["xla", "pallas" if target.platform == "tpu" else "cudnn"]
    path = args.results / f"compiled_{args.target}.jsonl"
    with devices_of(args.target, args.topology, math.prod(shape)) as devices:
        mesh = jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
        for name in WORKLOADS["gpu"] if args.workload == "all" else [args.workload]:
            for attention, layers in itertools.product(attentions, args.layers):
                record = measure(name, args, mesh, attention, layers == "unrolled")
                if "refused" in record:
                    said = record["refused"][:200]
                else:
                    said = f"{record['moved_bytes'] / 1e9:.1f} GB moved, {record['kernels']} kernels, "
                    said += f"at least {1e3 * record['least_seconds']:.1f} ms, {record['step_bytes'] / 1e9:.1f} GB, "
                    said += f"compiled in {record['compile_seconds']:.0f} s"
                print(f"{name}, {attention}, {layers}: {said}", flush=True)
                common.append_record(path, record)
                path.with_suffix(".md").write_text(report(common.read_records(path), target), encoding="utf-8")


if __name__ == "__main__":
    main()
