"""What a step of several tasks costs beside their own steps one after the other.

    python benchmarks/mixed_tasks.py [--model gpt2 stories] [--tasks 4 8] [--rounds 5]

From the repository's root. Each task has 20 soft tokens, a template and label words of its own; a mixed batch of 32 examples has
as many of each. Beside it stand the tasks' own steps, of as many examples as the mixed batch has of each, and one step of one
task with all 32; in turns in one process. Rows are random words, 4 to 19 in each. Writes benchmarks/results/mixed_tasks.jsonl
and the table of mixed_tasks.md.
"""

import argparse
import json
import statistics
import time

import common
import jax
import population

import jaxprompt
from jaxprompt.machine.background import Background
from jaxprompt.machine.host import keep_freed_memory

BATCH = 32
OUT = common.RESULTS / "mixed_tasks.jsonl"
FIELDS = ("Review", "Note", "Text", "Words", "Line", "Story", "Said", "Heard")


def config(model: str, tasks: int, batch_size: int) -> jaxprompt.Config:
    """Of so many tasks; of one, the first of them alone."""
    each = {}
    for number, field in enumerate(FIELDS[:tasks]):
        labels = {"0": "bad", "1": "good"} if number % 2 else {"0": "slow", "1": "fast"}
        each[field] = {
            "template": f"{{soft:20}} {field}: {{text}} It was {{target}}",
            "objective": {"type": "verbalizer", "labels": labels},
        }
    tree = {
        "model": population.MODELS[model]["model"],
        "data": {"train": population.rows(16 * BATCH)},
        "train": {"batch_size": batch_size, "steps": 1000},
        "method": {"init": {"type": "uniform"}},
        "run_dir": "runs/benchmark",
    }
    return jaxprompt.load_config(tree | ({"tasks": each} if tasks > 1 else each[FIELDS[0]]))


def measure(model: str, tasks: int, rounds: int, background: Background) -> dict:
    """Seconds of a mixed step, of the tasks' own steps, and of a step of one task with as many examples."""
    backbone = jaxprompt.load_backbone(population.MODELS[model]["model"])
    steps = {
        "mixed": population.Steps(config(model, tasks, BATCH), backbone, background),
        "separate": population.Steps(config(model, 1, BATCH // tasks), backbone, background),
        "one task": population.Steps(config(model, 1, BATCH), backbone, background),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(tasks if name == "separate" else 1):
                step.take()
            jax.block_until_ready(step.state)
            seconds[name].append(time.perf_counter() - begun)
    return {
        "machine": common.machine(common.jax_devices()),
        "model": model,
        "tasks": tasks,
        "rows": {name: list(step.batches[0].inputs.ids.shape) for name, step in steps.items()},
        "seconds": {name: statistics.median(values[1:]) for name, values in seconds.items()},
        "compile_seconds": {name: step.compile_seconds for name, step in steps.items()},
    }


def report(records: list[dict]) -> str:
    newest = {(record["model"], record["tasks"]): record for record in records}
    lines = []
    for (model, tasks), record in newest.items():
        mixed, separate, one = (record["seconds"][name] for name in ("mixed", "separate", "one task"))
        lines.append(
            (
                f"`{model}`",
                tasks,
                f"{1000 * mixed:.0f} ms",
                f"{1000 * separate:.0f} ms",
                f"**{separate / mixed:.2f}**",
                f"{1000 * one:.0f} ms",
                f"{mixed / one:.2f}",
                f"{record['compile_seconds']['mixed']:.1f} s",
            )
        )
    head = (
        "model",
        "tasks",
        "mixed step",
        "their own steps",
        "times faster",
        "one task's step",
        "times that",
        "compiled in",
    )
    return common.table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=("gpt2", "stories"), default=["gpt2", "stories"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    with Background() as background:
        for model in args.model:
            for tasks in args.tasks:
                record = measure(model, tasks, args.rounds, background)
                print(json.dumps(record), flush=True)
                common.append_record(OUT, record)
    records = common.read_records(OUT)
    common.put_measured(common.RESULTS / "mixed_tasks.md", report(records))


if __name__ == "__main__":
    main()
