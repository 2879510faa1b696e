"""The same training steps in PEFT and in jaxprompt: seconds per step side by side, losses side by side.

    python benchmarks/vs_peft.py --data-root DATA --workload gpt2-soft20
    python benchmarks/vs_peft.py --data-root DATA --workload all
    python benchmarks/vs_peft.py --data-root DATA --platform gpu --workload all --rounds 7

DATA holds sst2/train.tsv, rte/train.tsv and boolq/train.jsonl. Needs both libraries in one environment
(`pip install -e ".[bench]"`). Each side runs in a process of its own and both wait while the other has its round; they
take turns. Both start from the same weights and the same prompt and see the same examples in each step; the prompt,
the head if there is one, and nothing else is trained, by AdamW without weight decay. PEFT gets the fastest of several
settings, found in trial rounds. Writes results/vs_peft_PLATFORM.jsonl (one line per run) and .md (a table of the newest).
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import common
import numpy as np
from prepare import prepare
from worker import Worker, WorkerError
from workloads import PRESETS, WORKLOADS, Workload

# The first losses must agree this well, relative to themselves; bfloat16 has 8 bits.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
PAUSE = 0.2
TRIAL_ROUNDS = 3
# PEFT's trial may beat its timed rounds by this factor; else the machine was not quiet and the ratio not PEFT's best.
STEADY = 0.9
MAX_ACCUMULATE = 64
OURS, THEIRS = "jaxprompt_worker.py", "peft_worker.py"


def compare(name: str, workload: Workload, args: argparse.Namespace) -> dict:
    """Runs one workload; returns its record."""
    steps = args.steps or workload.steps
    total = steps * (args.warmup + args.rounds)
    folder = prepare(name, workload, args.data_root, args.work_dir, total)
    env = environment(args)
    ours, our_facts = started(
        OURS,
        folder,
        env,
        workload.batch_size,
        "setup",
        args.accumulate,
        remat=args.remat,
        attention=args.attention,
        unroll=args.unroll,
        steps=total,
    )
    with ours:
        setting, accumulate, trials = best_setting(folder, env, workload, steps, args)

        def tried(worker: Worker) -> dict:
            worker("round", steps=1)
            return worker("reset")

        theirs, their_facts = started(
            THEIRS, folder, env, workload.batch_size, "setup", accumulate, trial=tried, setting=setting
        )
        with theirs:
            rounds = []
            for number in range(args.warmup + args.rounds):
                pair = []
                for side in (theirs, ours):
                    time.sleep(PAUSE)
                    pair.append(side("round", steps=steps))
                rounds.append(pair)
                kind = "warm-up" if number < args.warmup else "timed"
                seconds = [side["seconds"] for side in pair]
                print(
                    f"  {kind} round {number}: PEFT {seconds[0]:.3f} s, jaxprompt {seconds[1]:.3f} s per step",
                    flush=True,
                )
            ends = [folder / f"{side}.npz" for side in ("peft", "jaxprompt")]
            memory = [side("finish", path=str(end)) for side, end in zip((theirs, ours), ends, strict=True)]
    timed = rounds[args.warmup :]
    seconds = {side: [pair[i]["seconds"] for pair in timed] for i, side in enumerate(("peft", "jaxprompt"))}
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    losses = losses_of(rounds)
    record = {
        "workload": name,
        "platform": args.platform,
        "machine": common.machine(our_facts["devices"]),
        "steps_per_round": steps,
        "seconds_per_step": seconds,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "losses": losses,
        **agreement(losses, folder, ends),
        "peft": {**their_facts, "trials": trials, **memory[0]},
        "jaxprompt": {**our_facts, **memory[1]},
        "settings": dataclasses.asdict(workload),
        "differs": workload.differs,
    }
    record["steady"] = not trials or min(trials.values()) >= STEADY * statistics.median(seconds["peft"])
    speed = our_facts["flops_per_step"] / statistics.median(seconds["jaxprompt"])
    record["matmul_share"] = speed / our_facts["matmul_flops_per_second"]
    # With its prompt elsewhere, PEFT computes something else.
    record["agrees"] = bool(workload.peft_template) or record["first_loss_difference"] <= TOLERANCE[workload.dtype]
    return record


def losses_of(rounds: list) -> dict:
    """The losses of all steps by side; `rounds` are pairs, PEFT's first."""
    return {
        side: [loss for pair in rounds for loss in pair[i]["losses"]] for i, side in enumerate(("peft", "jaxprompt"))
    }


def environment(args: argparse.Namespace) -> dict[str, str]:
    """What both workers are started with."""
    if args.platform == "cpu":
        env = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        return env | ({"TORCH_THREADS": str(args.threads)} if args.threads else {})
    # Both live on one card at the same time, each with its half of the memory.
    return gpu_environment(args.memory_share)


def gpu_environment(share: float) -> dict[str, str]:
    """What a worker is started with that may have so much of a card's memory, and fails where there is no card."""
    return {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "JAX_PLATFORMS": "cuda",
        "TORCH_DEVICE": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": str(share),
        "MEMORY_SHARE": str(share),
    }


def started(script, folder, env, batch_size, do, accumulate, trial=None, **arguments) -> tuple[Worker, dict]:
    """A worker that has loaded everything, and its answer; splits the batch in more parts while it does not fit.

    Args:
      trial: called with the worker after its set-up, to see whether a step fits; returns more facts.
    """
    while True:
        worker = Worker(script, folder, env)
        try:
            facts = worker(do, accumulate=accumulate, **arguments)
            return worker, facts | (trial(worker) if trial else {})
        except WorkerError as error:
            worker.__exit__()
            if not error.memory or accumulate >= min(MAX_ACCUMULATE, batch_size):
                raise
            accumulate *= 2
            print(f"  {script}: out of memory, {accumulate} parts per batch", flush=True)


def best_setting(folder, env, workload, steps, args) -> tuple[str, int, dict]:
    """The fastest of PEFT's settings, the parts its batches are split in, and the trial seconds per step of all."""
    if args.peft_setting:
        return args.peft_setting, args.accumulate, {}
    with Worker(THEIRS, folder, env) as lister:
        names = lister("settings", compiled=args.compile or args.platform == "gpu")["settings"]

    def trial(worker: Worker) -> dict:
        worker("round", steps=steps)
        return {"seconds": min(worker("round", steps=steps)["seconds"] for _ in range(TRIAL_ROUNDS))}

    trials, parts = {}, {}
    for name in names:
        try:
            worker, facts = started(
                THEIRS, folder, env, workload.batch_size, "setup", args.accumulate, trial=trial, setting=name
            )
        except WorkerError as error:
            print(f"  PEFT with {name}: {error}", flush=True)
            continue
        with worker:
            trials[name], parts[name] = facts["seconds"], facts["accumulate"]
            print(f"  PEFT with {name}: {trials[name]:.3f} s per step", flush=True)
    if not trials:
        raise WorkerError("PEFT runs with none of its settings")
    best = min(trials, key=trials.get)
    return best, parts[best], trials


def agreement(losses: dict, folder: Path, ends: list[Path]) -> dict:
    """How far the two runs are apart: their losses, and what they learned, relative to the way it went."""
    theirs, ours = (np.array(values) for values in losses.values())
    difference = np.abs(theirs - ours) / np.abs(theirs)
    start, *learned = ({k: v.astype(np.float64) for k, v in np.load(p).items()} for p in (folder / "init.npz", *ends))
    far = sum(np.square(learned[0][k] - learned[1][k]).sum() for k in start)
    way = sum(np.square(learned[0][k] - start[k]).sum() for k in start)
    return {
        "first_loss_difference": float(difference[0]),
        "largest_loss_difference": float(difference.max()),
        "learned_difference": float(np.sqrt(far / way)),
        "loss_change": float(np.ptp(theirs)),
    }


def report(records: list[dict]) -> str:
    """The table of the newest record of each workload, by machine, losses below it."""
    newest = {(r["machine"].rsplit(", ", 1)[0], _name(r)): r for r in records}
    text = ["# PEFT and jaxprompt side by side", ""]
    head = ("workload", "PEFT s/step", "jaxprompt s/step", "ratio, median [min–max]", "loss difference: first, largest")
    head += ("learned, difference", "PEFT setting", "tokens per step: padded, packed, real")
    for machine in dict.fromkeys(machine for machine, _ in newest):
        mine = [r for (where, _), r in newest.items() if where == machine]
        text += [mine[-1]["machine"], "", common.table(head, [_row(r) for r in mine]), ""]
        text += [f"{_name(r)}: {r['differs']}.\n" for r in mine if r["differs"]]
        text += ["PEFT's settings on trial, s/step:", "", *(f"- {_name(r)}: {_trials(r)}" for r in mine), ""]
        text += ["Losses per step, PEFT / jaxprompt:", ""]
        text += [f"- {_name(r)}: {_losses(r)}" for r in mine]
        text += [""]
    return "\n".join(text)


def _name(r: dict) -> str:
    """The workload, and what is not as usual."""
    ours = r["jaxprompt"]
    cudnn = ", cuDNN attention" if ours.get("attention") == "cudnn" else ""
    return f"`{r['workload']}`{cudnn}{', unrolled' if ours.get('unroll') else ''}"


def _row(r: dict) -> tuple:
    parts = f", {r['peft']['accumulate']} parts" if r["peft"]["accumulate"] > 1 else ""
    medians = [statistics.median(seconds) for seconds in r["seconds_per_step"].values()]
    return (
        _name(r),
        *(f"{seconds:.4f}" for seconds in medians),
        f"**{r['ratio']:.2f}** [{min(r['ratios']):.2f}–{max(r['ratios']):.2f}]{'' if r['steady'] else ' UNSTEADY'}",
        *_agreement_of(r),
        r["peft"]["setting"] + ("" if r["peft"]["trials"] else " (given)") + parts,
        f"{r['peft']['padded_tokens_per_step']:.0f}, {r['jaxprompt']['computed_tokens_per_step']:.0f}, "
        f"{r['jaxprompt']['real_tokens_per_step']:.0f}",
    )


def _agreement_of(r: dict) -> tuple[str, str]:
    """How far losses and prompts are apart, where both compute the same."""
    if r["settings"].get("peft_template"):
        return "", ""
    losses = f"{r['first_loss_difference']:.1e}, {r['largest_loss_difference']:.1e}"
    return losses + ("" if r["agrees"] else " DIFFERENT"), f"{r['learned_difference']:.1e}"


def _trials(r: dict) -> str:
    found = r["peft"]["trials"]
    if not found:
        return "none, the setting was given"
    text = ", ".join(f"{name} {seconds:.4f}" for name, seconds in found.items())
    return text + ("" if r["steady"] else " (UNSTEADY: a trial was faster than the timed rounds; measure again)")


def _losses(r: dict, most: int = 6) -> str:
    pairs = list(zip(*r["losses"].values(), strict=True))
    return ", ".join(f"{a:.5f} / {b:.5f}" for a, b in pairs[:most]) + (" ..." if len(pairs) > most else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    names = [name for presets in WORKLOADS.values() for name in presets]
    parser.add_argument("--platform", choices=WORKLOADS, default="cpu", help="default cpu")
    parser.add_argument("--workload", choices=["all", *names], default="all", nargs="+", help="default all")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each side (default 5)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before the timed ones (default 1)")
    parser.add_argument("--steps", type=int, help="steps per round (default: the workload's)")
    parser.add_argument("--threads", type=int, help="PyTorch's threads on a CPU (default: all cores)")
    parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="jaxprompt's attention")
    parser.add_argument("--unroll", action=argparse.BooleanOptionalAction, help="jaxprompt's unroll (default: its own)")
    parser.add_argument("--remat", choices=("none", "dots", "full"), help="jaxprompt's train.remat (default: its own)")
    parser.add_argument("--peft-setting", help='skip the trials: "sdpa", "sdpa-causal", "eager", "sdpa-compile", ...')
    parser.add_argument("--compile", action="store_true", help="try torch.compile on a CPU too")
    parser.add_argument("--accumulate", type=int, default=1, help="parts per batch to begin with (default 1)")
    parser.add_argument("--memory-share", type=float, default=0.45, help="of the card, for each side (default 0.45)")
    work = Path(tempfile.gettempdir()) / "jaxprompt-vs-peft"
    parser.add_argument("--work-dir", type=Path, default=work, help="where models and rows are kept (default: temp)")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="default benchmarks/results")
    args = parser.parse_args()
    chosen = [args.workload] if isinstance(args.workload, str) else args.workload
    chosen = list(WORKLOADS[args.platform]) if "all" in chosen else chosen
    path, failed = args.results / f"vs_peft_{args.platform}.jsonl", []
    for name in chosen:
        print(name, flush=True)
        try:
            record = compare(name, PRESETS[name], args)
        except Exception as error:  # the others still run
            traceback.print_exc()
            print(f"  failed: {error}", flush=True)
            failed.append(name)
            continue
        common.append_record(path, record)
        path.with_suffix(".md").write_text(report(common.read_records(path)), encoding="utf-8")
        share = f"{100 * record['matmul_share']:.0f} % of the matmul peak"
        print(f"  ratio {record['ratio']:.2f}; {share}; losses {_losses(record)}", flush=True)
        if not record["agrees"]:
            failed.append(name)
    print(report(common.read_records(path)))
    if failed:
        sys.exit(f"failed, or different losses: {', '.join(failed)}")


if __name__ == "__main__":
    main()
