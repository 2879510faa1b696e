"""Everything that is measured on one GPU, in order of worth, inside a time budget.

    python benchmarks/card.py --prepare --data-root DATA --work-dir WORK     # rows and tokenizers, on any machine
    python benchmarks/card.py --minutes 8 --work-dir WORK
    python benchmarks/card.py --minutes 8 --work-dir WORK --only compile step
    python benchmarks/card.py --minutes 8 --data-root DATA --work-dir WORK --dry     # the whole of it on a CPU, tiny

Every measurement runs in processes of its own with a time limit; its result is printed and written when it is there, so
that a run that is cut off keeps what it has. Writes results/card_NAME.jsonl and .md.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import common
from prepare import draw_weights, prepare
from vs_peft import agreement
from worker import Worker, WorkerError
from workloads import WORKLOADS

OURS, THEIRS = "jaxprompt_worker.py", "peft_worker.py"
# Different batches of each workload; as many as `prepare` makes at least.
STEPS = 64
NO_TRITON = {"xla_gpu_enable_triton_gemm": False}
UNTUNED = {**NO_TRITON, "xla_gpu_autotune_level": 0}
NO_FUSION = {"xla_gpu_experimental_enable_fusion_autotuner": False}


@dataclass(frozen=True)
class Variant:
    """How XLA compiles a train step."""

    attention: str
    unroll: bool
    options: dict

    @property
    def name(self) -> str:
        said = " ".join(f"{k.removeprefix('xla_gpu_')}={v}" for k, v in self.options.items())
        return f"{self.attention}, {'unrolled' if self.unroll else 'loop'}, {said or 'as XLA does'}"


VARIANTS = (
    Variant("cudnn", False, UNTUNED),
    Variant("cudnn", True, UNTUNED),
    Variant("cudnn", False, NO_TRITON),
    Variant("cudnn", False, {**NO_TRITON, **NO_FUSION}),
    Variant("xla", False, UNTUNED),
    Variant("cudnn", True, {**NO_TRITON, **NO_FUSION}),
    Variant("cudnn", False, {}),
)


class Card:
    """The card, what time there is, and what was found."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.deadline = args, time.monotonic() + 60 * args.minutes
        # The steps are worth more than the last of the ways to compile them.
        self.compile_until = time.monotonic() + 60 * args.minutes * (0.45 if len(args.only) > 1 else 1.0)
        self.path = args.results / f"card_{args.name}.jsonl"
        self.records = []

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def limit(self, most: float) -> float:
        """Seconds that a measurement can have."""
        return max(min(most, self.left()), 1.0)

    def found(self, record: dict, said: str) -> None:
        record |= {"versions": common.versions()}
        self.records.append(record)
        common.append_record(self.path, record)
        print(f"[{self.left():4.0f} s left] {said}", flush=True)

    def folder(self, name: str) -> Path:
        presets = {name: w for part in WORKLOADS.values() for name, w in part.items()}
        return prepare(name, presets[name], self.args.data_root, self.args.work_dir, STEPS, weights=False)

    def environment(self, share: float) -> dict[str, str]:
        """What a worker is started with, when it may have so much of the card's memory."""
        if self.args.dry:
            return {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return {
            "JAX_PLATFORMS": "cuda",
            "TORCH_DEVICE": "cuda",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": str(share),
            "MEMORY_SHARE": str(share),
        }

    @property
    def small(self) -> str:
        return "tiny-llama" if self.args.dry else "llama32-3b-soft200"

    @property
    def large(self) -> str:
        return "tiny-llama-batch8" if self.args.dry else "llama32-3b-soft200-batch64"


def compile_variants(card: Card) -> None:
    """The first step, and those after it, by what XLA is told; each in a process that has compiled nothing before."""
    folder = card.folder(card.small)
    for variant in VARIANTS:
        left = card.compile_until - time.monotonic()
        if left < 15:
            return print(f"no time for {variant.name}", flush=True)
        how = {"attention": variant.attention, "unroll": variant.unroll, "options": variant.options}
        how |= {"attention": "xla"} if card.args.dry else {}
        record = {"measured": "compile", "workload": card.small, "variant": variant.name}
        try:
            with Worker(OURS, folder, card.environment(0.9)) as worker:
                facts = worker(
                    "setup", card.limit(min(110, left)), remat=None, accumulate=1, steps=8, drawn=True, **how
                )
                took = [worker("round", card.limit(30), steps=4)["seconds"] for _ in range(4)][1:]
                memory = worker("finish", path=str(folder / "ours.npz"))
        except WorkerError as error:
            card.found(record | {"failed": str(error)}, f"{variant.name}: {error}")
            continue
        median = statistics.median(took)
        card.found(
            record | how | {"seconds_per_step": took, **facts, **memory},
            f"{variant.name}: compiled {facts['row_shapes']} in {facts['compile_seconds']:.1f} s, step {1e3 * median:.1f} "
            f"ms, {100 * facts['flops_per_step'] / median / facts['matmul_flops_per_second']:.0f} % of a product, "
            f"{memory['peak_memory_bytes'] / 1e9:.1f} GB",
        )


def chosen(card: Card) -> dict:
    """The variant with which 300 steps end first, as arguments of a worker's set-up; without one, the defaults."""
    tried = [r for r in card.records if r["measured"] == "compile" and "seconds_per_step" in r]
    if not tried:
        return {"attention": "auto", "unroll": None}
    best = min(tried, key=lambda r: r["compile_seconds"] + 300 * statistics.median(r["seconds_per_step"]))
    return {name: best[name] for name in ("attention", "unroll", "options")}


def steps_against_peft(card: Card) -> None:
    """The same steps by both, in turns at the small batch, one after the other where both do not fit the card."""
    small, large, how = card.folder(card.small), card.folder(card.large), chosen(card)
    start = time.monotonic()
    draw_weights(small, "cpu" if card.args.dry else "cuda")
    print(f"weights drawn in {time.monotonic() - start:.1f} s", flush=True)
    setting = "sdpa-causal"
    with Worker(OURS, small, card.environment(0.75)) as ours:
        facts = ours("setup", card.limit(150), remat=None, accumulate=1, steps=STEPS, **how)
        print(
            f"ours loaded in {facts['loading_seconds']:.1f} s, compiled in {facts['compile_seconds']:.1f} s", flush=True
        )
        with Worker(THEIRS, small, card.environment(0.3)) as theirs:
            their_facts = theirs("setup", card.limit(60), setting=setting, accumulate=1)
            rounds = [[side("round", card.limit(40), steps=4) for side in (theirs, ours)] for _ in range(6)]
            ends = [small / f"{side}.npz" for side in ("peft", "jaxprompt")]
            memory = [side("finish", path=str(end)) for side, end in zip((theirs, ours), ends, strict=True)]
        record(card, card.small, rounds[1:], (their_facts, facts), memory, agreement(losses(rounds), small, ends))
        with contextlib.suppress(WorkerError):
            profile(card, card.small, ours, facts, 4)
        facts = ours("setup", card.limit(150), remat=None, accumulate=1, steps=STEPS, folder=str(large), **how)
        mine = [ours("round", card.limit(40), steps=2) for _ in range(4)]
        ends = [large / f"{side}.npz" for side in ("peft", "jaxprompt")]
        memory[1] = ours("finish", path=str(ends[1]))
        per_step = statistics.median(r["seconds"] for r in mine[1:])
        print(f"ours, {card.large}: {per_step:.4f} s per step, {share(facts, per_step)}", flush=True)
        with contextlib.suppress(WorkerError):
            profile(card, card.large, ours, facts, 2)
    parts = 1 if card.args.dry else 4
    while parts <= 16:
        try:
            with Worker(THEIRS, large, card.environment(0.95)) as theirs:
                their_facts = theirs("setup", card.limit(60), setting=setting, accumulate=parts)
                other = [theirs("round", card.limit(60), steps=2) for _ in range(3)]
                memory[0] = theirs("finish", path=str(ends[0]))
            break
        except WorkerError as error:
            if not error.memory:
                raise
            parts *= 2
    rounds = list(zip(other, mine, strict=False))
    alike = {"first_loss_difference": abs(other[0]["losses"][0] / mine[0]["losses"][0] - 1)}
    record(card, card.large, rounds[1:], (their_facts, facts), memory, alike)


def losses(rounds: list) -> dict:
    """Of all steps, by side."""
    return {
        side: [loss for pair in rounds for loss in pair[i]["losses"]] for i, side in enumerate(("peft", "jaxprompt"))
    }


def share(facts: dict, seconds: float) -> str:
    """A step's needed FLOPs as a share of a large product's speed."""
    return f"{100 * facts['flops_per_step'] / seconds / facts['matmul_flops_per_second']:.0f} % of a product"


def record(card: Card, name: str, rounds: list, facts: tuple, memory: list, alike: dict) -> None:
    """Keeps one comparison; `rounds` are pairs, PEFT's first."""
    seconds = {side: [pair[i]["seconds"] for pair in rounds] for i, side in enumerate(("peft", "jaxprompt"))}
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    theirs, ours = (statistics.median(s) for s in seconds.values())
    gigabytes = [m["peak_memory_bytes"] / 1e9 for m in memory]
    card.found(
        {
            "measured": "step",
            "workload": name,
            "seconds_per_step": seconds,
            "ratio": ratio,
            **alike,
            "peft": {**facts[0], **memory[0]},
            "jaxprompt": {**facts[1], **memory[1]},
        },
        f"{name}: PEFT {theirs:.4f} s ({facts[0]['accumulate']} parts), jaxprompt {ours:.4f} s, ratio {ratio:.2f}, "
        f"{share(facts[1], ours)}, memory {gigabytes[0]:.1f} and {gigabytes[1]:.1f} GB, "
        f"first loss differs by {alike['first_loss_difference']:.1e}",
    )


def profile(card: Card, name: str, worker: Worker, facts: dict, steps: int) -> None:
    """Where a step's time goes on the device."""
    with tempfile.TemporaryDirectory() as folder:
        found = worker("profile", card.limit(60), steps=steps, folder=folder)
    if "by_kernel" not in found:
        return
    busy, span = 1e3 * found["busy_seconds"], 1e3 * found["span_seconds"]
    said = f"{name}: {found['kernels']:.0f} kernels a step, busy {busy:.1f} of {span:.1f} ms\n"
    said += "\n".join(
        f"    {1e3 * t:8.3f} ms {calls:6.1f} x {what[:110]}" for what, calls, t in found["by_kernel"][:24]
    )
    card.found({"measured": "profile", "workload": name, "row_shapes": facts["row_shapes"], **found}, said)


STAGES = {"compile": compile_variants, "step": steps_against_peft}


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
        for name in (card.small, card.large):
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
