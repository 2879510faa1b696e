"""What `jaxprompt plan` says beside what a run takes, and how long planning takes.

    python benchmarks/planned.py agreement          # three configs, planned and then trained on 8 simulated devices
    python benchmarks/planned.py cost gpt3-175b     # planning for 64 H100s: seconds and peak memory of the process
    python benchmarks/planned.py cost llama3-1b --target v5e --topology 16x16 --compile 1

The run is `jaxprompt train`'s own loop with random weights in float32. Beside the plan stand, of one device: the bytes of
all live arrays while a step's figures are logged, with the next batch on its way; the temporary memory of the program that the
loop compiled and ran; and how far the process grew beyond what lay there before the first step, by eight. Appends to
results/plan.jsonl and writes results/plan.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

RECORDS = common.RESULTS / "plan.jsonl"
DEVICES = 8
TEXT = "the film was slow and very quiet and the story of two old friends had no end "
CASES = {
    "decoder": {
        **{"model": "random:gpt2-small", "template": "{soft:20} {text} {target}"},
        **{"objective": {"type": "generation"}, "mesh": {"data": 2, "fsdp": 2, "tensor": 2}},
    },
    "encoder": {
        **{"model": "random:bert-base", "template": "{soft:20} {text}", "mesh": {"data": 2, "fsdp": 2, "tensor": 2}},
        **{"objective": {"type": "classifier", "labels": ["0", "1"]}},
    },
    "encoder-decoder": {
        **{"model": "random:t5-v1_1-small", "template": "{soft:20} {text} {target}"},
        **{"objective": {"type": "generation"}, "mesh": {"data": 4, "fsdp": 1, "tensor": 2}},
    },
}
COSTS = {
    "gpt3-175b": {
        "model": "random:gpt3-175b",
        "data": {"max_length": 2048},
        "train": {"batch_size": 64, "remat": "full"},
    },
    "llama3-1b": {
        "model": "random:llama3-1b",
        "data": {"max_length": 512},
        "train": {"batch_size": 256, "remat": "full"},
    },
}


def config_of(name: str, folder: Path) -> Path:
    """Writes a case's config, with its rows."""
    rows = [{"text": TEXT * (1 + n % 3), "target": TEXT[: 20 + n], "label": str(n % 2)} for n in range(64)]
    train = {"steps": 2, "batch_size": 16, "log_every": 2}
    tree = CASES[name] | {"data": {"train": rows}, "train": train, "run_dir": str(folder / "run")}
    path = folder / "config.yaml"
    path.write_text(json.dumps(tree))  # JSON is YAML
    return path


def planned(name: str, folder: Path) -> dict:
    """What the command says of a case."""
    mesh = "x".join(map(str, CASES[name]["mesh"].values()))
    command = [sys.executable, "-m", "jaxprompt", "plan", str(config_of(name, folder)), "--devices", str(DEVICES)]
    done = subprocess.run(
        [*command, "--simulate", "--mesh", mesh, "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])["meshes"][0]


def run(path: Path) -> dict:
    """Trains a case in this process, which has eight devices, and measures."""
    import jax

    from jaxprompt.reports.terminal import Reporter
    from jaxprompt.training import loop

    found, log, take = {}, loop._Run._log, loop._Run._loop

    def resident() -> dict[str, int]:
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        return {words[0]: 1024 * int(words[1]) for words in lines if words and words[0] in ("VmRSS:", "VmHWM:")}

    def looping(self, state, checkpoints):
        for future in self.learner.step.ahead.programs.values():
            future.result()
        Path("/proc/self/clear_refs").write_text("5")
        found["before"] = resident()["VmRSS:"]
        return take(self, state, checkpoints)

    def logged(self, *given):
        if "live" not in found:
            jax.block_until_ready(jax.live_arrays())
            first = jax.devices()[0]
            shards = (shard for array in jax.live_arrays() for shard in array.addressable_shards)
            found["live"] = sum(shard.data.nbytes for shard in shards if shard.device == first)
            programs = [future.result()[0].memory_analysis() for future in self.learner.step.ahead.programs.values()]
            found["temporary"] = max(program.temp_size_in_bytes for program in programs)
            found["grown"] = (resident()["VmHWM:"] - found["before"]) / DEVICES
        return log(self, *given)

    loop._Run._log, loop._Run._loop = logged, looping
    loop.train(str(path), reporter=Reporter(quiet=True))
    return found


def agreement(names: list[str]) -> None:
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            said = planned(name, Path(folder))
            # As many threads as devices that may wait for each other, see tests/devices.py.
            flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}", "NPROC": "64"}
            environment = os.environ | flags | {"JAX_PLATFORMS": "cpu"}
            command = [sys.executable, __file__, "run", str(Path(folder) / "config.yaml")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        record = {"case": name, **CASES[name], "said": said["bytes"], "rows": said["rows"], "mesh": said["mesh"]}
        record["ran"] = json.loads(done.stdout.splitlines()[-1])
        common.append_record(RECORDS, record | {"machine": common.machine()})
        print(name, {part: f"{size / 1e6:.2f} MB" for part, size in compared(record).items()}, flush=True)


def compared(record: dict) -> dict[str, float]:
    """A record's bytes as they are compared."""
    said, ran = record["said"], record["ran"]
    temporary = said["activations"] + said["temporary"]
    held = sum(said[part] for part in ("weights", "prefix_and_labels", "prompt", "optimizer", "batches"))
    both = {"said held": held, "ran held": ran["live"], "said temporary": temporary, "ran temporary": ran["temporary"]}
    return both | {"said": held + temporary, "ran": ran["live"] + ran["temporary"], "grown": ran["grown"]}


def cost(name: str, options: list[str]) -> None:
    tree = COSTS[name] | {"dtype": "bfloat16", "template": "{soft:20} {text} {target}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(json.dumps(tree))
        command = [sys.executable, "-m", "jaxprompt", "plan", str(path), *options, "--json"]
        begun = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "cost": name,
        "options": options,
        "seconds": time.perf_counter() - begun,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "output": lines[:-1],
        "plan": json.loads(lines[-1]),
        "machine": common.machine(),
        "versions": common.versions("libtpu", "jax-cuda12-plugin"),
    }
    common.append_record(RECORDS, record)
    print("\n".join(lines[:-1]))
    print(f"{record['seconds']:.0f} s, {record['peak_bytes'] / 1e9:.2f} GB", flush=True)


def report(records: list[dict]) -> str:
    agreed = {record["case"]: record for record in records if "case" in record}
    costs = {(record["cost"], *record["options"]): record for record in records if "cost" in record}
    text = ["# What `jaxprompt plan` says, and what it takes", "", "Written by `benchmarks/planned.py`.", ""]
    if agreed:
        text += ["## Beside a run on 8 simulated CPU devices", "", next(iter(agreed.values()))["machine"], ""]
        text += [
            "MB of one device, float32. Held: weights, prompt, optimizer's state and two batches; of the run, all live arrays",
            "of device 0 between two steps. Temporary: activations and the rest; of the run, what the program that its loop compiled and",
            "ran says. Grown: how much larger the process was at most during the first steps than before them, by 8,",
            "what is the host's own among it.",
            "",
        ]
        head = (
            "",
            "model",
            "mesh",
            "rows",
            "held: plan",
            "run",
            "temporary: plan",
            "run",
            "all: plan",
            "run",
            "off",
            "grown",
        )
        lines = []
        for name, record in agreed.items():
            found = compared(record)
            shown = [
                f"{found[part] / 1e6:.2f}"
                for part in ("said held", "ran held", "said temporary", "ran temporary", "said", "ran")
            ]
            off = f"{100 * (found['said'] / found['ran'] - 1):+.2f} %"
            rows = "x".join(map(str, record["rows"]))
            lines.append((name, record["model"], record["mesh"], rows, *shown, off, f"{found['grown'] / 1e6:.1f}"))
        text += [common.table(head, lines), ""]
    for (name, *options), record in costs.items():
        text += [
            f"## {name} {' '.join(options)}",
            "",
            f"{record['machine']}, {record['versions']}: {record['seconds']:.0f} s",
        ]
        text[-1] += (
            f" ({record['processor_seconds']:.0f} of processors), {record['peak_bytes'] / 1e9:.2f} GB of memory at most"
        )
        text += ["", "```", *record["output"], "```", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("agreement", "cost", "run", "report"))
    parser.add_argument("name", nargs="?", help="of `cost` a model, of `agreement` a case (default: all three)")
    args, options = parser.parse_known_args()
    if args.what == "run":
        print(json.dumps(run(Path(args.name))))
        return
    if args.what == "agreement":
        agreement([args.name] if args.name else list(CASES))
    elif args.what == "cost":
        cost(args.name, options or ["--devices", "64", "--memory", "80GB"])
    RECORDS.with_suffix(".md").write_text(report(common.read_records(RECORDS)), encoding="utf-8")


if __name__ == "__main__":
    main()
