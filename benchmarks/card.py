"""Everything that is measured on one GPU, in order of worth, inside a time budget.

    python benchmarks/card.py --prepare --data-root DATA --work-dir WORK     # rows and tokenizers, on any machine
    python benchmarks/card.py --minutes 8 --work-dir WORK
    python benchmarks/card.py --minutes 8 --work-dir WORK --only compile step
    python benchmarks/card.py --minutes 8 --data-root DATA --work-dir WORK --dry     # the whole of it on a CPU, tiny

compile: the first step by what XLA is told. step: the same steps in PEFT and in jaxprompt, and the kernels of a step.
cold: 300 steps from the command to the saved prompt. others: more models. generate: text. checks: the tests marked
`gpu`. Every measurement runs in processes of its own with a time limit; its result is printed and written when it is
there, so that a run that is cut off keeps what it has. Writes results/card_NAME.jsonl and .md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import common
from card_table import report
from prepare import MINIMUM_STEPS, config_tree, draw_weights, prepare, read_workload
from vs_peft import OURS, THEIRS, agreement, gpu_environment, losses_of
from worker import Worker, WorkerError
from workloads import PRESETS

ROOT = Path(__file__).parents[1]
# Different batches of each workload.
STEPS = MINIMUM_STEPS
ROUNDS = 5
NO_TRITON = {"xla_gpu_enable_triton_gemm": False}
NO_FUSION = {"xla_gpu_experimental_enable_fusion_autotuner": False}
UNTUNED = {**NO_TRITON, "xla_gpu_autotune_level": 0}


@dataclass(frozen=True)
class Variant:
    """How XLA compiles a train step; `options` None: as the library asks for."""

    attention: str
    unroll: bool
    options: dict | None

    @property
    def name(self) -> str:
        options = self.options or {}
        said = " ".join(f"{k.removeprefix('xla_gpu_')}={v}" for k, v in options.items())
        default = "our options" if self.options is None else "as XLA does"
        return f"{self.attention}, {'unrolled' if self.unroll else 'loop'}, {said or default}"


# What is most likely to be chosen first: there may be no time for the last.
VARIANTS = (
    Variant("cudnn", False, None),
    Variant("cudnn", False, UNTUNED),
    Variant("cudnn", True, None),
    Variant("cudnn", False, NO_FUSION),
    Variant("xla", False, None),
    Variant("cudnn", False, {}),
)
# What else is run against PEFT, by which of its settings.
OTHERS = {"gpt2-large-soft100": "sdpa-causal", "bert-large-soft20": "sdpa", "t5-v1_1-xl-soft100": "sdpa"}


class Card:
    """The card, what time there is, and what was found."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.deadline = args, time.monotonic() + 60 * args.minutes
        self.path = args.results / f"card_{args.name}.jsonl"
        self.records = []
        dry = args.dry
        self.small = "tiny-llama" if dry else "llama32-3b-soft200"
        self.large = "tiny-llama-batch8" if dry else "llama32-3b-soft200-batch64"
        self.others = {"tiny-llama": "sdpa-causal"} if dry else OTHERS
        self.variants = VARIANTS[:2] if dry else VARIANTS
        self.rounds, self.cold_steps, self.tokens = (2, 12, 8) if dry else (ROUNDS, 300, 128)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def limit(self, most: float) -> float:
        """Seconds that a measurement can have."""
        return max(min(most, self.left()), 1.0)

    def keep(self, record: dict, said: str) -> None:
        """Writes and prints what was found."""
        record |= {"machine": common.machine(record.pop("devices", None))}
        self.records.append(record)
        common.append_record(self.path, record)
        self.path.with_suffix(".md").write_text(report(common.read_records(self.path)), encoding="utf-8")
        print(f"[{self.left():4.0f} s left] {said}", flush=True)

    def folder(self, name: str) -> Path:
        return prepare(name, PRESETS[name], self.args.data_root, self.args.work_dir, STEPS, weights=False)

    def weights(self, folder: Path) -> None:
        start = time.monotonic()
        draw_weights(folder, "cpu" if self.args.dry else "cuda")
        print(f"weights of {folder.name} are there after {time.monotonic() - start:.1f} s", flush=True)

    def environment(self, share: float) -> dict[str, str]:
        """What a worker is started with, when it may have so much of the card's memory."""
        if self.args.dry:
            return {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return gpu_environment(share)


def compile_variants(card: Card) -> None:
    """The first step, and those after it, by what XLA is told; each in a process that has compiled nothing before."""
    folder = card.folder(card.small)
    # The steps are worth more than the last of the ways to compile them.
    until = card.left() * (0.55 if len(card.args.only) > 1 else 0.0)
    for variant in card.variants:
        if card.left() - until < 15:
            return print(f"no time for {variant.name}", flush=True)
        how = {"attention": variant.attention, "unroll": variant.unroll, "options": variant.options}
        how |= {"attention": "xla"} if card.args.dry else {}
        record = {"measured": "compile", "workload": card.small, "variant": variant.name}
        try:
            with Worker(OURS, folder, card.environment(0.9)) as worker:
                limit = card.limit(min(110, card.left() - until))
                facts = worker("setup", limit, remat=None, accumulate=1, steps=8, drawn=True, **how)
                took = [worker("round", card.limit(30), steps=4)["seconds"] for _ in range(4)][1:]
                memory = worker("finish", path=str(folder / "ours.npz"))
        except WorkerError as error:
            card.keep(record | {"failed": str(error)}, f"{variant.name}: {error}")
            continue
        median = statistics.median(took)
        card.keep(
            record | how | {"seconds_per_step": took, **facts, **memory},
            f"{variant.name}: compiled {facts['row_shapes']} in {facts['compile_seconds']:.1f} s, step {1e3 * median:.1f} "
            f"ms, {share(facts, median)}, {memory['peak_memory_bytes'] / 1e9:.1f} GB",
        )


def chosen(card: Card) -> dict:
    """The variant with which 300 steps end first, as arguments of a worker's set-up; without one, the defaults."""
    tried = [r for r in card.records if r["measured"] == "compile" and "seconds_per_step" in r]
    if not tried:
        return {"attention": "auto", "unroll": None}
    best = min(tried, key=lambda r: r["compile_seconds"] + 300 * statistics.median(r["seconds_per_step"]))
    return {name: best[name] for name in ("attention", "unroll", "options")}


def share(facts: dict, seconds: float) -> str:
    """A step's needed FLOPs as a share of a large product's speed."""
    return f"{100 * facts['flops_per_step'] / seconds / facts['matmul_flops_per_second']:.0f} % of a product"


def profile(card: Card, name: str, worker: Worker, facts: dict, steps: int) -> None:
    """Where a step's time goes on the device."""
    with tempfile.TemporaryDirectory() as folder:
        found = worker("profile", card.limit(60), steps=steps, folder=folder)
    if "by_kernel" not in found:
        return
    busy, span = 1e3 * found["busy_seconds"], 1e3 * found["span_seconds"]
    said = f"{name}: {found['kernels']:.0f} kernels a step, busy {busy:.1f} of {span:.1f} ms\n"
    rows = [f"    {1e3 * t:8.3f} ms {calls:6.1f} x {what[:110]}" for what, calls, t in found["by_kernel"][:24]]
    record = {"measured": "profile", "workload": name, "row_shapes": facts["row_shapes"], **found}
    card.keep(record | {"devices": facts["devices"]}, said + "\n".join(rows))


def in_turns(card: Card, name: str, setting: str, shares: tuple[float, float], profiled: bool = False) -> None:
    """The same steps by both, in turns, both on the card; shares of its memory: ours, PEFT's."""
    folder = card.folder(name)
    card.weights(folder)
    ends = [folder / f"{side}.npz" for side in ("peft", "jaxprompt")]
    with Worker(OURS, folder, card.environment(shares[0])) as ours:
        facts = ours("setup", card.limit(150), remat=None, accumulate=1, steps=STEPS, **chosen(card))
        took = f"loaded in {facts['loading_seconds']:.1f} s, compiled in {facts['compile_seconds']:.1f} s"
        print(f"{name}: jaxprompt {took}", flush=True)
        with Worker(THEIRS, folder, card.environment(shares[1])) as theirs:
            their_facts = theirs("setup", card.limit(60), setting=setting, accumulate=1)
            rounds = [
                [side("round", card.limit(60), steps=4) for side in (theirs, ours)] for _ in range(card.rounds + 1)
            ]
            memory = [side("finish", path=str(end)) for side, end in zip((theirs, ours), ends, strict=True)]
        keep_steps(card, name, rounds, (their_facts, facts), memory, agreement(losses_of(rounds), folder, ends))
        if profiled:
            profile(card, name, ours, facts, 4)


def one_after_the_other(card: Card, name: str, setting: str) -> None:
    """The same steps by both where the memory of both does not fit the card at once; PEFT in as few parts as fit."""
    folder = card.folder(name)
    card.weights(folder)
    with Worker(OURS, folder, card.environment(0.95)) as ours:
        facts = ours("setup", card.limit(150), remat=None, accumulate=1, steps=STEPS, **chosen(card))
        mine = [ours("round", card.limit(60), steps=2) for _ in range(card.rounds)]
        memory = [None, ours("finish", path=str(folder / "jaxprompt.npz"))]
        seconds = statistics.median(found["seconds"] for found in mine[1:])
        print(f"{name}: jaxprompt {seconds:.4f} s per step, {share(facts, seconds)}", flush=True)
        profile(card, name, ours, facts, 2)
    parts = 1 if card.args.dry else 2
    while True:
        try:
            with Worker(THEIRS, folder, card.environment(0.95)) as theirs:
                their_facts = theirs("setup", card.limit(60), setting=setting, accumulate=parts)
                other = [theirs("round", card.limit(60), steps=2) for _ in range(3)]
                memory[0] = theirs("finish", path=str(folder / "peft.npz"))
            break
        except WorkerError as error:
            if not error.memory or parts >= 16:
                raise
            parts *= 2
    alike = {"first_loss_difference": abs(other[0]["losses"][0] / mine[0]["losses"][0] - 1)}
    keep_steps(card, name, list(zip(other, mine, strict=False)), (their_facts, facts), memory, alike)


def keep_steps(card: Card, name: str, rounds: list, facts: tuple, memory: list, alike: dict) -> None:
    """Keeps one comparison; `rounds` are pairs, PEFT's first, and the first of them is not counted."""
    seconds = {side: [pair[i]["seconds"] for pair in rounds[1:]] for i, side in enumerate(("peft", "jaxprompt"))}
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    theirs, ours = (statistics.median(s) for s in seconds.values())
    gigabytes = [m["peak_memory_bytes"] / 1e9 for m in memory]
    sides = {"peft": {**facts[0], **memory[0]}, "jaxprompt": {**facts[1], **memory[1]}}
    record = {"measured": "step", "workload": name, "seconds_per_step": seconds, "ratio": ratio, **alike, **sides}
    card.keep(
        record | {"devices": facts[1]["devices"]},
        f"{name}: PEFT {theirs:.4f} s ({facts[0]['accumulate']} parts), jaxprompt {ours:.4f} s, ratio {ratio:.2f}, "
        f"{share(facts[1], ours)}, memory {gigabytes[0]:.1f} and {gigabytes[1]:.1f} GB, "
        f"first loss differs by {alike['first_loss_difference']:.1e}",
    )


def steps_against_peft(card: Card) -> None:
    in_turns(card, card.small, "sdpa-causal", (0.5, 0.45), profiled=True)
    one_after_the_other(card, card.large, "sdpa-causal")


def others(card: Card) -> None:
    for name, setting in card.others.items():
        if card.left() > 40:
            in_turns(card, name, setting, (0.5, 0.45))


def cold(card: Card) -> None:
    """From the command to the saved prompt, in processes that have done nothing before; ours again with a filled cache."""
    folder = card.folder(card.small)
    card.weights(folder)
    settings, record = read_workload(folder), {"measured": "cold", "workload": card.small, "steps": card.cold_steps}
    with tempfile.TemporaryDirectory() as scratch:
        for cache in ("empty", "filled"):
            tree = config_tree(settings, str((folder / "rows.jsonl").resolve()))
            tree["train"] |= {"steps": card.cold_steps}
            tree["run_dir"] = f"{scratch}/{cache}"
            config = Path(scratch, f"{cache}.yaml")
            config.write_text(json.dumps(tree))
            record[f"{cache}_cache"] = timed_run(card, config, {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/compiled"})
    start = time.perf_counter()
    with Worker(THEIRS, folder, card.environment(0.95)) as theirs:
        theirs("setup", card.limit(60), setting="sdpa-causal", accumulate=1)
        first = theirs("round", card.limit(60), steps=1) and time.perf_counter() - start
        theirs("round", card.limit(120), steps=card.cold_steps - 1)
        theirs("finish", path=str(folder / "peft.npz"))
        record["peft"] = {"seconds": time.perf_counter() - start, "first_step_seconds": first}
    said = ", ".join(
        f"{name} {record[name]['seconds']:.1f} s (first step after {record[name]['first_step_seconds']:.1f} s)"
        for name in ("empty_cache", "filled_cache", "peft")
    )
    card.keep(record, f"{card.cold_steps} steps from the command to the saved prompt: {said}")


def timed_run(card: Card, config: Path, env: dict[str, str]) -> dict:
    """Seconds of `jaxprompt train`, in all and from reading the weights to the first step, and what it said when."""
    command = [sys.executable, "-m", "jaxprompt", "train", str(config)]
    start, said = time.perf_counter(), []
    env = {**os.environ, **card.environment(0.95), **env, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        said = [[time.perf_counter() - start, line.rstrip()] for line in process.stderr]
    if process.returncode:
        raise RuntimeError(f"jaxprompt train ended with {process.returncode}: {said[-1:]}")
    loading, first = (next(at for at, line in said if words in line) for words in ("loading", "first step"))
    return {"seconds": time.perf_counter() - start, "first_step_seconds": first - loading, "said": said}


def generate(card: Card) -> None:
    """New tokens for 32 prompts, by both."""
    folder = card.folder(card.small)
    card.weights(folder)
    record, count = {"measured": "generate", "workload": card.small, "tokens": card.tokens}, 4 if card.args.dry else 32
    for name, script, how in (
        ("jaxprompt", OURS, {"remat": None, "attention": "auto", "unroll": True, "accumulate": 1, "steps": 2}),
        ("transformers", THEIRS, {"setting": "sdpa", "accumulate": 1}),
    ):
        with Worker(script, folder, card.environment(0.95)) as worker:
            worker("setup", card.limit(150), **how)
            found = [worker("generate", card.limit(90), count=count, tokens=card.tokens) for _ in range(3)]
            record[name] = {"first_seconds": found[0]["seconds"], "seconds": min(f["seconds"] for f in found[1:])}
    ratio = record["transformers"]["seconds"] / record["jaxprompt"]["seconds"]
    card.keep(
        record | {"ratio": ratio},
        f"{card.tokens} tokens for {count} prompts: transformers {record['transformers']['seconds']:.2f} s, jaxprompt "
        f"{record['jaxprompt']['seconds']:.2f} s (first time {record['jaxprompt']['first_seconds']:.1f}), ratio {ratio:.2f}",
    )


def checks(card: Card) -> None:
    """The tests marked `gpu`: values and gradients of every family against the CPU's."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "2" if card.args.dry else "8", "--dist", "loadgroup"]
    command += ["tests/gpu", *(["-k", "greedy"] if card.args.dry else [])]
    env = {**os.environ, "XLA_FLAGS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    env |= {"JAXPROMPT_TEST_DEVICE": "cpu"} if card.args.dry else {"JAX_PLATFORMS": "cuda,cpu"}
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=card.limit(240))
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() + "\nout of time"
    record = {"measured": "checks", "seconds": time.perf_counter() - start, "output": output[-20000:]}
    card.keep(record, "tests marked gpu: " + "\n".join(output.splitlines()[-30:]))


STAGES = {
    "compile": compile_variants,
    "step": steps_against_peft,
    "cold": cold,
    "others": others,
    "generate": generate,
    "checks": checks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="time for all of it (default 8)")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets, where WORK has no rows yet")
    parser.add_argument("--only", choices=STAGES, nargs="+", default=list(STAGES), help="default all")
    parser.add_argument("--prepare", action="store_true", help="make rows and tokenizers, and measure nothing")
    parser.add_argument("--dry", action="store_true", help="run on a CPU, with tiny models")
    parser.add_argument("--name", default="gpu", help="of the records (default gpu)")
    work = Path(tempfile.gettempdir()) / "jaxprompt-card"
    parser.add_argument("--work-dir", type=Path, default=work, help="where models and rows are kept (default: temp)")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="default benchmarks/results")
    args = parser.parse_args()
    card = Card(args)
    if args.prepare:
        for name in dict.fromkeys((card.small, card.large, *card.others)):
            print(card.folder(name))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    failed = []
    for stage in args.only:
        try:
            STAGES[stage](card)
        except Exception as error:  # the others still run
            traceback.print_exc()
            failed.append(f"{stage}: {error}")
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
