"""What prompts are worth on real tasks: no prompt, a fixed one, examples in the text, and a learned one.

    python benchmarks/evidence.py --data-root FOLDER [--only smollm2/sst2 ...] [--seeds 3]

From the repository's root; the folder holds sst2/train.tsv and so on, which the configs name as data/sst2/train.tsv. Every
result is a line of benchmarks/results/evidence.jsonl as soon as it is known, and is not computed again; the table between
the markers of evidence.md is written from them. Run folders are kept in runs/evidence.
"""

import argparse
import functools
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import numpy as np

from jaxprompt import load_backbone, load_config, train
from jaxprompt.config import Config
from jaxprompt.data.sources import read_rows
from jaxprompt.experiment.rows import training_rows, validation_rows
from jaxprompt.metrics.regression import PEARSON, SPEARMAN
from jaxprompt.objectives.similarity import embed_labels
from jaxprompt.reports.terminal import Reporter

# Config, the figure that the table shows, the number of examples that few-shot text shows, seeds of the learned prompt.
TASKS = {
    "smollm2/sst2": ("accuracy", 4, 3),
    "smollm2/trec": ("accuracy", 6, 3),
    "smollm2/banking77": ("accuracy", 0, 3),
    "smollm2/multi30k": ("bleu", 3, 1),
    "smollm2/e2e": ("bleu", 3, 1),
    "smollm2/xquad": ("squad_f1", 2, 1),
    "smollm2/boolq": ("accuracy", 2, 1),
    "smollm2/chnsenticorp": ("accuracy", 4, 1),
    "minilm/stsb": ("pearson", 0, 3),
    "minilm/rte": ("accuracy", 0, 3),
    "tinystories/soft_20": ("perplexity", 0, 3),
}
# The text in place of a prompt that starts from no text.
FIXED = {"tinystories/soft_20": "A story for small children, in simple words:"}
WORDS = 64
_SOFT = re.compile(r"\{soft:\d+\}(\n?)")
load = functools.cache(load_backbone)


def configured(name: str, root: Path, work: Path) -> Config:
    """A task's config with its files where they are."""
    config = load_config(Path("configs", f"{name}.yaml"))
    data = {
        key: value.replace("data/", f"{root}/")
        for key in ("train", "validation")
        if (value := getattr(config.data, key)) is not None
    }
    for task, column in (("boolq", "passage"), ("tinystories", "text")):
        if task in name:
            data = {key: str(first_words(Path(value.replace("_64", "")), column, work)) for key, value in data.items()}
    if name.endswith("sst2"):
        data["train"] = str(long_phrases(Path(data["train"].replace("_10", "")), work))
    return load_config(config.model_copy(update={"data": config.data.model_copy(update=data)}))


def first_words(path: Path, column: str, work: Path) -> Path:
    """A copy of a file whose texts end behind their first words."""
    to = work / "data" / f"{path.stem}.jsonl"
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**row, column: " ".join(row[column].split()[:WORDS])} for row in read_rows(path)]
        to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def long_phrases(path: Path, work: Path) -> Path:
    """A copy of SST-2's file without phrases of fewer than ten words: what is validated is whole sentences."""
    to = work / "data" / f"{path.stem}_10.tsv"
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if len(line.split("\t")[0].split()) >= 10]
        to.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    return to


def without_prompt(config: Config, text: str = "", shown: Sequence[tuple[str, str]] = ()) -> Config:
    """The config with a text in place of the soft tokens, and examples ahead; a head is learned as before."""
    tree = config.model_dump()

    def put(content: str) -> str:
        # The line that the soft tokens stand on is the text's.
        return _SOFT.sub(lambda found: text + found[1] if text else "", content)

    if config.chat is None:
        # A prefix stands nowhere in the template: its text comes first, behind the token that the model wants there.
        first, rest = re.fullmatch(r"(\{(?:cls|bos)\})?(.*)", config.template, re.DOTALL).groups("")
        rest = put(rest) if "{soft:" in rest else f"{text}{' ' * bool(text)}{rest}"
        tree["template"] = first + "".join(f"{asked}{said}\n\n" for asked, said in shown) + rest
    else:
        roles = [turn["role"] for turn in tree["chat"]]
        ahead = [dict(role=role, content=said) for pair in shown for role, said in zip(roles, pair, strict=True)]
        tree["chat"] = [*ahead, *({**turn, "content": put(turn["content"])} for turn in tree["chat"])]
    if not has_head(config):
        tree["train"] |= {"steps": 0}
    if shown and tree["data"]["max_length"] is not None:
        tree["data"]["max_length"] += len(load(config.model).tokenizer.encode("\n\n".join(map("".join, shown))))
    return load_config({**tree, "method": {"name": "none"}})


def has_head(config: Config) -> bool:
    """Whether something is learned without a prompt."""
    return config.objective.type in ("classifier", "regression")


def examples(config: Config, shots: int) -> list[tuple[str, str]]:
    """Training rows as the config asks and answers, as templates without fields; of each class as many as of any other."""
    rows, objective, data = training_rows(config)[:2000], config.objective, config.data
    ask = config.template.removesuffix("{target}") if config.chat is None else config.chat[0].content
    answer = (lambda row: row[data.target]) if objective.type == "generation" else (lambda row: str(row[data.label]))
    if objective.type != "generation":
        names = {name.lower(): word for name, word in objective.labels.items()}
        by_label = [[row for row in rows if answer(row).lower() == name] for name in names]
        rows = [row for several in itertools.zip_longest(*by_label) for row in several if row is not None]
    found, seen = [], set()
    for row in rows:
        asked = re.sub(r"\{(\w+)\}", lambda field: _literal(row[field[1]]), _fixed(ask, config))  # noqa: B023
        if asked in seen or len(asked) > 1200:
            continue
        seen.add(asked)
        said = answer(row)
        said = said[0] if isinstance(said, list) else said
        found.append((asked, _literal(said if objective.type == "generation" else names[said.lower()])))
        if len(found) == shots:
            return found
    raise SystemExit(f"{config.data.train} has not so many rows to show")


def _fixed(content: str, config: Config) -> str:
    return _SOFT.sub(lambda found: config.method.init.text + found[1], content)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def variants(name: str, config: Config, shots: int, seeds: int) -> Iterator[tuple[str, int, Config]]:
    """What is measured of a task: by name and seed, a config."""
    head = has_head(config)
    yield ("head alone" if head else "no prompt"), 0, without_prompt(config)
    text = getattr(config.method.init, "text", None) or FIXED.get(name)
    if text is not None:
        yield ("fixed text, head" if head else "fixed prompt"), 0, without_prompt(config, text)
    if shots:
        yield f"{shots} examples", 0, without_prompt(config, text, examples(config, shots))
    for seed in range(seeds):
        yield "learned prompt", seed, load_config({**config.model_dump(), "seed": seed})


def measured(task: str, what: str, seed: int, config: Config, work: Path) -> dict:
    """Runs one of them and returns what it scored."""
    folder = work / task / f"{what.replace(' ', '_').replace(',', '')}_{seed}"
    backbone = load(config.model, remat=config.train.remat)
    begun = time.perf_counter()
    config = load_config({**config.model_dump(), "run_dir": str(folder)})
    metrics = train(config, backbone=backbone, reporter=Reporter(quiet=True)).metrics
    lines = common.read_records(folder / "metrics.jsonl")
    by_step = [[line["step"], line["validation"]] for line in lines if line.get("validation")]
    return {
        "task": task,
        "what": what,
        "seed": seed,
        "minutes": round((time.perf_counter() - begun) / 60, 2),
        "evaluations": [[step, {k: v for k, v in found.items() if isinstance(v, float)}] for step, found in by_step],
        **{key: value for key, value in metrics.items() if key != "confusion"},
    }


def untrained_cosine(config: Config) -> dict:
    """STS-B's figures by the cosine of the encoder's vectors of the two sentences."""
    rows = validation_rows(config)
    vectors = [
        np.asarray(embed_labels(load(config.model), tuple((row[column],) for row in rows), "mean"))
        for column in ("sentence1", "sentence2")
    ]
    outputs = {"value": (vectors[0] * vectors[1]).sum(-1)}
    answers = {"value": np.array([float(row["score"]) for row in rows])}
    return {"task": "minilm/stsb", "what": "cosine, untrained", "seed": 0} | {
        metric.name: float(metric(outputs, answers)) for metric in (PEARSON, SPEARMAN)
    }


def table(records: list[dict]) -> str:
    rows = []
    for task, (figure, _, _) in TASKS.items():
        mine = [record for record in records if record["task"] == task]
        scale = 100 if figure in ("accuracy", "squad_f1") else 1
        majority = next((record["majority_accuracy"] for record in mine if "majority_accuracy" in record), None)
        if majority is not None:
            rows.append((f"`{task}`", figure, "most frequent answer", f"{100 * majority:.1f}", "", "", ""))
        for what in dict.fromkeys(record["what"] for record in mine):
            found = [record for record in mine if record["what"] == what]
            values = [scale * record[figure] for record in found]
            digits = 3 if figure == "pearson" else 2 if figure == "perplexity" else 1
            rows.append(
                (
                    f"`{task}`",
                    figure,
                    what,
                    f"**{statistics.mean(values):.{digits}f}**",
                    ", ".join(f"{value:.{digits}f}" for value in values) if len(values) > 1 else "",
                    found[0].get("step") or "",
                    f"{statistics.median(record['minutes'] for record in found):.1f}" if "minutes" in found[0] else "",
                )
            )
    return common.table(("task", "figure", "prompt", "score", "by seed", "steps", "minutes"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with sst2/, boolq/ and so on")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="these tasks")
    parser.add_argument("--seeds", type=int, help="of learned prompts (default: three where a run is short)")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/evidence"), help="where runs are kept")
    args = parser.parse_args()
    lines = common.RESULTS / "evidence.jsonl"
    records = common.read_records(lines)
    known = {(record["task"], record["what"], record["seed"]) for record in records}

    def keep(record: dict) -> None:
        records.append(record)
        print(json.dumps({key: value for key, value in record.items() if key != "evaluations"}), flush=True)
        common.append_record(lines, record)

    for task in args.only:
        _, shots, seeds = TASKS[task]
        config = configured(task, args.data_root, args.work_dir)
        if task == "minilm/stsb" and (task, "cosine, untrained", 0) not in known:
            keep(untrained_cosine(config))
        for what, seed, variant in variants(task, config, shots, args.seeds or seeds):
            if (task, what, seed) not in known:
                keep(measured(task, what, seed, variant, args.work_dir))
    common.put_measured(common.RESULTS / "evidence.md", table(records))


if __name__ == "__main__":
    main()
