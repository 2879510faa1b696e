"""Feeding from a file that is larger than the memory it may take: tokens per second, and the memory of doing so.

    python benchmarks/streaming.py --texts FOLDER/tinystories/tinystories_1000.json [--gigabytes 5] [--work-dir FOLDER]

Writes a .jsonl of that size from the texts, sentences drawn anew, and reads it as a run with `data.stream` does: indexed,
shuffled, tokenised and packed for a GPT-2 of 124M parameters, whose train step is timed beside it. Feeding is measured in
processes of its own, of shapes alone, so that the memory is that of feeding. Appends to benchmarks/results/streaming.jsonl.
"""

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import common

ROWS, WIDTH = 8, 512
TEMPLATE = "{soft:20}{target}"


def write(path: Path, texts: list[str], gigabytes: float) -> int:
    """Writes rows of sentences of the texts in random order until the file is so large; returns how many."""
    sentences = [sentence for text in texts for sentence in text.replace("\n", " ").split(". ") if sentence]
    rng, rows, size = random.Random(0), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < gigabytes * 1e9:
            text = ". ".join(rng.choices(sentences, k=rng.randint(4, 16)))
            line = json.dumps({"id": rows, "target": text}, ensure_ascii=False) + "\n"
            file.write(line)
            size, rows = size + len(line.encode()), rows + 1
    return rows


def config_tree(path: Path, workers: int) -> dict:
    return {
        "model": "gpt2",
        "template": TEMPLATE,
        "objective": {"type": "generation"},
        "data": {"train": str(path), "stream": True, "workers": workers, "max_length": WIDTH},
        "train": {"batch_size": ROWS, "steps": 1000},
    }


def experiment(path: Path, work: Path, workers: int, drawn: bool):
    """A run's parts, of a model of shapes alone or with random weights."""
    import transformers
    from drawn import abstract_backbone, drawn_backbone
    from workloads import Workload

    from jaxprompt import load_config
    from jaxprompt.experiment.build import build
    from jaxprompt.machine.sharding import make_mesh

    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "tokenizer")
    workload = Workload("gpt2", "lm", TEMPLATE, "generation", ROWS)
    make = drawn_backbone if drawn else abstract_backbone
    backbone = make(workload, tokenizer, make_mesh(), "xla", False, "dots")
    return build(load_config(config_tree(path, workers)), backbone)


def feed(path: Path, work: Path, workers: int, batches: int) -> dict:
    """Opens the file and takes batches; prints what that took. In a process of its own."""
    from jaxprompt.data.sources import Reading, open_source
    from jaxprompt.experiment.data import TrainingData

    parts = experiment(path, work, workers, drawn=False)
    before = common.peak_rss()
    begun = time.perf_counter()
    source = open_source(str(path), Reading(lazy=True))
    opened, index = time.perf_counter() - begun, common.peak_rss()
    rows = len(source)
    del source
    begun = time.perf_counter()
    data = TrainingData.load(parts)
    loaded = time.perf_counter() - begun
    stream = data.train_batches(0)
    next(itertools.islice(stream, 20, None))  # processes begin to work
    begun, tokens = time.perf_counter(), 0
    for batch in itertools.islice(stream, batches):
        tokens += int((batch.inputs.segments > 0).sum())
    seconds = time.perf_counter() - begun
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "workers": workers,
        "rows": rows,
        "index_seconds": opened,
        "load_seconds": loaded,
        "tokens_per_second": tokens / seconds,
        "batches": batches,
        "import_bytes": before,
        "index_bytes": index,
        "peak_bytes": common.peak_rss(),
        "peak_child_bytes": children,
    }


def step_tokens_per_second(path: Path, work: Path) -> dict:
    """The train step of GPT-2 124M on the same batches."""
    import jax

    from jaxprompt.experiment.data import TrainingData
    from jaxprompt.machine.host import keep_freed_memory
    from jaxprompt.training.optim import make_optimizer
    from jaxprompt.training.step import init_state, make_train_step

    keep_freed_memory()
    parts = experiment(path, work, 0, drawn=True)
    data = TrainingData.load(parts)
    optimizer = make_optimizer(parts.config.optimizer, 1000, parts.trainable_shapes())
    step = make_train_step(parts.forward(data.hoisted), parts.method, optimizer)
    state = init_state(parts.init_trainable(), optimizer)
    seconds, tokens = {}, {}
    for batch in itertools.islice(data.train_batches(0), 16):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        shape = batch.inputs.ids.shape
        seconds.setdefault(shape, []).append(time.perf_counter() - begun)
        tokens.setdefault(shape, []).append(int((batch.inputs.segments > 0).sum()))
    # The first of each shape compiles.
    rates = [t / s for shape in seconds for t, s in zip(tokens[shape][1:], seconds[shape][1:], strict=True)]
    return {"step_tokens_per_second": sorted(rates)[len(rates) // 2], "shapes": [list(shape) for shape in seconds]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="a .json list of texts")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file (default: %(default)s)")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/streaming"), help="where the file is kept")
    parser.add_argument("--batches", type=int, default=1000, help="batches that are timed (default: %(default)s)")
    parser.add_argument("--part", choices=("step", "feed"), help="for the script itself")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    path = args.work_dir / f"rows_{args.gigabytes:g}.jsonl"
    if args.part is not None:
        parts = {"step": step_tokens_per_second, "feed": lambda *a: feed(*a, args.workers, args.batches)}
        print(json.dumps(parts[args.part](path, args.work_dir)))
        return
    args.work_dir.mkdir(parents=True, exist_ok=True)
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    if not (args.work_dir / "tokenizer").exists():
        import models

        models.train_tokenizer(texts, 50257, [], "gpt2").save_pretrained(args.work_dir / "tokenizer")
    if not path.exists():
        print(f"{path}: {write(path, texts, args.gigabytes)} rows", flush=True)

    def part(name: str, workers: int = 0) -> dict:
        command = [sys.executable, __file__, "--part", name, "--workers", str(workers), "--gigabytes"]
        command += [str(args.gigabytes), "--work-dir", str(args.work_dir), "--batches", str(args.batches)]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        print(json.dumps(found), flush=True)
        return found

    record = {"machine": common.machine(), "gigabytes": args.gigabytes, **part("step")}
    record["feeds"] = [part("feed", workers) for workers in (0, 1)]
    for feed_ in record["feeds"]:
        feed_["times_the_step"] = feed_["tokens_per_second"] / record["step_tokens_per_second"]
        print(f"workers {feed_['workers']}: {feed_['times_the_step']:.0f} times what the step takes")
    common.append_record(common.RESULTS / "streaming.jsonl", record)


if __name__ == "__main__":
    main()
