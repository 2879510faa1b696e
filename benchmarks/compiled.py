"""What a GPU that is not at hand would run: the train steps of `vs_peft.py`, compiled for an NVIDIA H100 and read.

    pip install -e . "jax[cuda12]"
    JAX_PLATFORMS=cpu python benchmarks/compiled.py --data-root DATA --workload all
    JAX_PLATFORMS=cpu python benchmarks/compiled.py --data-root DATA --workload llama32-3b-soft200 --kernels 20

XLA compiles for a card by its description alone (h100.txtpb). Nothing runs, and no weights are made: what comes out is
the program, hence its memory, what its kernels move and multiply, and how long that takes at least by the card's
published speeds. It is no measurement of time. Products are cuBLAS's, as XLA tries Triton's in their place only on a
card. Writes results/compiled_h100.jsonl and .md.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections import Counter
from pathlib import Path

import common
import flops
import hlo
import jax
import jax.numpy as jnp
import prepare
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies
from jax.sharding import AxisType
from models import SHAPES
from workloads import WORKLOADS, Workload

import jaxprompt
from jaxprompt.backbone import Backbone
from jaxprompt.backbone.load import DTYPES
from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.build import build as build_experiment
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import MESH_AXES, replicated, row_sharding
from jaxprompt.models import build as build_model
from jaxprompt.models.families import family_of
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import TrainState, make_train_step

CARD = "NVIDIA H100 80GB SXM"
# By NVIDIA's data sheet, without sparsity: bytes per second, FLOPs per second of products of 16 bits and of TF32.
BANDWIDTH = 3.35e12
PRODUCTS = {"bf16": 989e12, "f16": 989e12, "f32": 495e12}
BATCHES = 8
VARIANTS = [("xla", False), ("xla", True), ("cudnn", False), ("cudnn", True)]


def abstract_backbone(workload: Workload, tokenizer, mesh, attention: str, unroll: bool, remat: str) -> Backbone:
    """The backbone of a workload without weights: shapes in their place."""
    config_json = SHAPES[workload.model]
    family = family_of(config_json["model_type"])
    # The stored names by which a family knows what a model has.
    weights = {"decoder.final_layer_norm.weight"}
    if not config_json.get("tie_word_embeddings", True):
        weights.add("lm_head.weight")
    config = family.translate(dict(config_json), weights)
    module = build_model(config, DTYPES[workload.dtype], remat, mesh, attention)
    params = flops.stacked_shapes(module)
    return Backbone(
        ref=workload.model,
        family=family.name,
        config=config,
        module=module,
        params=unstacked(params) if unroll else params,
        mesh=mesh,
        fingerprint="0" * 16,
        dtype=module.dtype,
        read_tokenizer=lambda: tokenizer,
    )


def unstacked(params):
    """As `models.stack.unstack`, of shapes."""
    if not isinstance(params, dict):
        return params
    apart = {name: unstacked(tree) for name, tree in params.items()}
    if "layers" in apart:
        leaves = jax.tree.leaves(apart["layers"])
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), apart["layers"])
        apart["layers"] = {str(number): one for number in range(leaves[0].shape[0])}
    return apart


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

    def placed(tree, sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = placed(jax.eval_shape(start), replicated(mesh))
    lowered = step.jitted.lower(placed(frozen, replicated(mesh)), state, placed(batch, row_sharding(mesh)))
    return lowered.compile(
        compiler_options={"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else None
    )


def measure(name: str, args: argparse.Namespace, mesh, attention: str, unroll: bool) -> dict:
    """The record of one workload, with the most frequent of its row shapes."""
    experiment = experiment_of(name, args, mesh, attention, unroll)
    data = TrainingData.load(experiment)
    batches = [batch for batch, _ in zip(data.train_batches(0), range(BATCHES), strict=False)]
    shape, _ = Counter(batch.inputs.ids.shape for batch in batches).most_common(1)[0]
    batches = [batch for batch in batches if batch.inputs.ids.shape == shape]
    counts = [flops.step_flops(experiment, data.hoisted, batch) for batch in batches]
    start = time.perf_counter()
    program = compile_step(experiment, data, batches[0])
    took = time.perf_counter() - start
    kernels, memory = hlo.kernels(program.as_text()), program.memory_analysis()
    if args.kernels:
        show(kernels, args.kernels)
    products = sum((Counter({t: f * k.times for t, f in k.flops.items()}) for k in kernels), Counter())
    return {
        "card": CARD,
        "versions": common.versions(),
        "workload": name,
        "attention": attention,
        "unroll": unroll,
        "remat": args.remat,
        "row_shape": list(shape),
        "tokens": statistics.mean(count.tokens for count in counts),
        "needed_flops": statistics.mean(count.total for count in counts),
        "product_flops": dict(products),
        "moved_bytes": sum(kernel.bytes * kernel.times for kernel in kernels),
        "kernels": sum(kernel.times for kernel in kernels),
        "least_seconds": sum(least_seconds(kernel) * kernel.times for kernel in kernels),
        "weight_bytes": memory.argument_size_in_bytes,
        "step_bytes": memory.temp_size_in_bytes,
        "compile_seconds": took,
    }


def least_seconds(kernel: hlo.Kernel) -> float:
    """How long a kernel takes at the card's published speeds, started in no time."""
    products = sum(count / PRODUCTS[kind] for kind, count in kernel.flops.items())
    return max(kernel.bytes / BANDWIDTH, products)


def show(kernels: list[hlo.Kernel], count: int) -> None:
    """Prints the kernels that take longest."""
    for kernel in sorted(kernels, key=lambda k: -least_seconds(k) * k.times)[:count]:
        moved, took = kernel.bytes * kernel.times / 1e9, 1e3 * least_seconds(kernel) * kernel.times
        print(f"{took:8.3f} ms {moved:7.2f} GB {kernel.times:4} x {kernel.name:40} {kernel.operation[-90:]}")


def report(records: list[dict]) -> str:
    """The table of the newest record of each workload and variant."""
    newest = {(r["workload"], r["attention"], r["unroll"], r["remat"]): r for r in records}
    head = ("workload", "attention", "layers", "rows", "real tokens", "kernels", "GB moved", "least ms")
    head += ("ms of products needed", "step GB", "weights GB", "compiled in s")
    lines = [
        (
            *(f"`{r['workload']}`", r["attention"], "unrolled" if r["unroll"] else "loop"),
            *("x".join(map(str, r["row_shape"])), f"{r['tokens']:.0f}", r["kernels"], f"{r['moved_bytes'] / 1e9:.1f}"),
            *(f"{1e3 * r['least_seconds']:.1f}", f"{1e3 * r['needed_flops'] / PRODUCTS['bf16']:.1f}"),
            *(f"{r['step_bytes'] / 1e9:.1f}", f"{r['weight_bytes'] / 1e9:.1f}", f"{r['compile_seconds']:.0f}"),
        )
        for r in newest.values()
    ]
    text = ["# Train steps compiled for an H100, none at hand", "", f"{CARD}, {records[-1]['versions']}", ""]
    return "\n".join([*text, common.table(head, lines), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--workload", choices=["all", *WORKLOADS["gpu"]], default="all", help="default all")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots", help="as train.remat")
    parser.add_argument("--kernels", type=int, default=0, help="also print so many kernels (default 0)")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="default benchmarks/results")
    args = parser.parse_args()
    # XLA and JAX ask the machine what they would find on the card.
    jax.default_backend = lambda: "gpu"
    fused_attention_stablehlo.check_cudnn_version = lambda: 91000
    fused_attention_stablehlo.check_compute_capability = lambda capability: True
    card = Path(__file__).with_name("h100.txtpb").read_text()
    devices = topologies.get_topology_desc(platform="cuda", target_config=card, topology="1x1x1").devices
    mesh = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    path = args.results / "compiled_h100.jsonl"
    for name in WORKLOADS["gpu"] if args.workload == "all" else [args.workload]:
        for attention, unroll in VARIANTS:
            record = measure(name, args, mesh, attention, unroll)
            print(
                f"{name}, {attention}, {'unrolled' if unroll else 'loop'}: {record['moved_bytes'] / 1e9:.1f} GB moved, "
                f"{record['kernels']} kernels, at least {1e3 * record['least_seconds']:.1f} ms, "
                f"{record['step_bytes'] / 1e9:.1f} GB",
                flush=True,
            )
            common.append_record(path, record)
            path.with_suffix(".md").write_text(report(common.read_records(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
