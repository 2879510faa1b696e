"""Speed of training on your own rows: examples and tokens per second, compile time, memory, share of the machine.

    python benchmarks/throughput.py --model openai-community/gpt2 --data reviews.jsonl \\
        --template "{soft} {text} It was {target}" --prompt-length 20 --batch-size 32 --steps 30 \\
        --objective verbalizer --labels "0=bad,1=good"
    python benchmarks/throughput.py --model MODEL --data stories.jsonl --template "{soft}{target}" --objective lm

Rows of FILE.jsonl are {"text": ..., "label": ...}; for generation {"text": ..., "target": ...}; for lm the text is what
is to be predicted. What runs is the library's ordinary path: the config, its data and `make_train_step`.
"""

import argparse
import json
import statistics
import time

import common
import jax

import jaxprompt
from jaxprompt.experiment import flops
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.host import keep_freed_memory
from jaxprompt.machine.sharding import replicated, row_sharding
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step

GIB = 2**30


def config_of(args: argparse.Namespace) -> jaxprompt.Config:
    """The experiment that the command line describes."""
    kind = "generation" if args.objective == "lm" else args.objective
    soft = args.method == "prompt"
    tree = {
        "model": args.model,
        "dtype": args.dtype,
        "attention": args.attention,
        "unroll": args.unroll,
        "template": args.template.replace("{soft}", f"{{soft:{args.prompt_length}}}" if soft else ""),
        "method": {"name": "soft"} if soft else {"name": "prefix", "length": args.prompt_length},
        "objective": {"type": kind},
        "data": {"train": args.data, "target": "text" if args.objective == "lm" else "target"},
        "optimizer": {"name": "adamw", "learning_rate": args.learning_rate},
        "train": {"batch_size": args.batch_size, "steps": args.steps, "remat": args.remat},
        "seed": args.seed,
    }
    if args.labels:
        tree["objective"]["labels"] = {
            name.strip(): (word or name).strip()
            for name, _, word in (pair.partition("=") for pair in args.labels.split(","))
        }
    return jaxprompt.load_config(tree)


def measure(args: argparse.Namespace) -> dict:
    """Trains `args.steps` steps; returns what they took."""
    config = config_of(args)
    before = common.matmul_flops_per_second(args.dtype)
    experiment = build(config)
    data = TrainingData.load(experiment)
    trainable = experiment.init_trainable()
    optimizer = make_optimizer(config.optimizer, args.steps, trainable)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    mesh = experiment.backbone.mesh
    state = jax.device_put(init_state(trainable, optimizer, config.seed), replicated(mesh))
    place = row_sharding(mesh)

    seconds, first_calls, counted, seen, losses = [], [], [], set(), []
    batches = data.train_batches(0)
    while len(seconds) < args.steps:
        start = time.perf_counter()
        batch = next(batches)
        state, figures = step(state, jax.device_put(batch, place))
        jax.block_until_ready((state, figures))
        took = time.perf_counter() - start
        losses.append(float(figures["loss"]))
        if batch.inputs.ids.shape not in seen:  # a row count that was not met before: it was compiled
            seen.add(batch.inputs.ids.shape)
            first_calls.append(took)
            continue
        seconds.append(took)
        counted.append(flops.step_flops(experiment, data.hoisted, batch))
    peak, of = common.peak_memory()
    median, total = statistics.median(seconds), sum(seconds)
    # The faster of two, so that a neighbour's load during one of them does not flatter the share.
    speed = jax.device_count() * max(before, common.matmul_flops_per_second(args.dtype))
    per_step = statistics.mean(count.total for count in counted)
    return {
        "machine": common.machine(common.jax_devices()),
        "model": args.model,
        "method": args.method,
        "objective": args.objective,
        "prompt_length": args.prompt_length,
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "remat": args.remat,
        "attention": args.attention,
        "unroll": experiment.backbone.unrolled,
        "steps": len(seconds),
        "row_shapes": sorted(map(list, seen)),
        "examples_per_second": args.batch_size * len(seconds) / total,
        "tokens_per_second": sum(count.tokens for count in counted) / total,
        "tokens_per_step": statistics.mean(count.tokens for count in counted),
        "median_step_seconds": median,
        "compile_seconds": max(sum(first_calls) - len(first_calls) * median, 0.0),
        "peak_memory_bytes": peak,
        "peak_memory_of": of,
        "flops_per_step": per_step,
        "flops_per_second": sum(count.total for count in counted) / total,
        "matmul_flops_per_second": speed,
        "matmul_share": sum(count.total for count in counted) / total / speed,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def text(record: dict) -> str:
    """The record for a reader."""
    lines = (
        ("examples per second", f"{record['examples_per_second']:.1f}"),
        ("real tokens per second", f"{record['tokens_per_second']:.0f} ({record['tokens_per_step']:.0f} per step)"),
        ("median step", f"{record['median_step_seconds']:.4f} s over {record['steps']} steps"),
        ("compilation", f"{record['compile_seconds']:.1f} s for row shapes {record['row_shapes']}"),
        ("peak memory", f"{record['peak_memory_bytes'] / GIB:.2f} GiB of the {record['peak_memory_of']}"),
        ("FLOPs per step", f"{record['flops_per_step'] / 1e9:.2f} G ({record['flops_per_second'] / 1e9:.1f} G/s)"),
        ("matmul speed", f"{record['matmul_flops_per_second'] / 1e9:.1f} GFLOP/s {record['dtype']}, measured now"),
        ("share of it", f"{100 * record['matmul_share']:.1f} %"),
        ("loss", f"{record['first_loss']:.4f} -> {record['last_loss']:.4f}"),
    )
    return "\n".join([record["machine"], *(f"{name + ':':24}{value}" for name, value in lines), "", flops.FORMULA])


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, hub id, or package:module/path of the model")
    parser.add_argument("--data", required=True, help='JSONL file of rows {"text": ..., "label" or "target": ...}')
    parser.add_argument("--template", required=True, help="layout of an example; {soft} is where the prompt goes")
    parser.add_argument("--prompt-length", type=int, default=20, help="soft tokens, or keys per layer (default 20)")
    parser.add_argument("--batch-size", type=int, default=32, help="examples per step (default 32)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, compilation apart (default 20)")
    parser.add_argument("--method", choices=("prompt", "prefix"), default="prompt", help="default prompt")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default float32"
    )
    parser.add_argument(
        "--objective",
        choices=("verbalizer", "generation", "classifier", "lm"),
        default="verbalizer",
        help="what is scored (default verbalizer)",
    )
    parser.add_argument("--labels", help="LABEL=WORD,LABEL=WORD for a verbalizer (default: the labels are the words)")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of AdamW (default 0.01)")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots", help="as train.remat")
    parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="as attention")
    parser.add_argument("--unroll", action=argparse.BooleanOptionalAction, help="as unroll (default: its own)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.steps < 1:
        parser().error("--steps must be 1 or more")
    keep_freed_memory()  # as the commands do
    record = measure(args)
    print(json.dumps(record) if args.json else text(record))


if __name__ == "__main__":
    main()
