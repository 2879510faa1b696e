"""Quality on real data: runs every config of a suite and writes what it scored.

    python benchmarks/quality.py stories260k
    python benchmarks/quality.py banking77
    python benchmarks/quality.py sst2 --data FOLDER_WITH_train.tsv_AND_dev.tsv

From the repository's root. Writes benchmarks/results/quality_SUITE.jsonl (one line per run), quality_SUITE.png (training
loss) and the table between the markers of quality_SUITE.md. Run folders are kept in runs/quality, and a second call
resumes or reuses them.
"""

import argparse
import dataclasses
import functools
import json
import statistics
from pathlib import Path

import common
import numpy as np

from jaxprompt import generate, load_backbone, load_config, train
from jaxprompt.experiment.build import Experiment, build
from jaxprompt.experiment.data import encoded_validation
from jaxprompt.experiment.rows import validation_rows
from jaxprompt.inference.score import score
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter

STORY = "Once upon a time"
STORY_GOES_ON = ", there was a little girl named Lily. She loved to play outside in the park."
# Sampled, since the most likely text of so small a model repeats itself.
SAMPLING = {"max_new_tokens": 60, "temperature": 0.7, "top_p": 0.9}
SAMPLES = 4
load = functools.cache(load_backbone)


def run(path: Path, seed: int, data: Path | None) -> tuple[dict, Experiment, Prompt]:
    """Trains (or only scores) one config with one seed; returns its record, its parts and its prompt."""
    name = f"{path.parent.name}/{path.stem}"
    overrides = [f"seed={seed}", f"run_dir=runs/quality/{name}/seed{seed}"]
    if data is not None:
        overrides += [f"data.train={data / 'train.tsv'}", f"data.validation={data / 'dev.tsv'}"]
    config = load_config(path, overrides)
    print(f"{name} seed {seed}", flush=True)
    backbone = load(config.model, remat=config.train.remat)
    result = train(config, backbone=backbone, reporter=Reporter(quiet=True))
    lines = common.read_records(result.run_dir / "metrics.jsonl")
    steps = [line for line in lines if "step_seconds" in line]
    record = {
        "config": name,
        "seed": seed,
        "method": config.method.name,
        "template": config.template,
        "prompt_parameters": sum(array.size for array in result.prompt.arrays.values()),
        "head_parameters": sum(array.size for array in result.prompt.head.values()),
        "optimizer": config.optimizer.model_dump(),
        "train_loss_by_step": [[line["step"], round(line["loss"], 5)] for line in steps],
        "step_seconds": statistics.median(line["step_seconds"] for line in steps) if steps else None,
        **result.metrics,
    }
    experiment = build(config, backbone, label_names=result.prompt.info["labels"] or None)
    return record, experiment, result.prompt


def end_loss(experiment: Experiment, prompt: Prompt) -> float:
    """Mean loss of the end-of-sequence token alone: the last target of every example."""
    names = ("target_at", "target_ids", "target_group")
    examples = encoded_validation(experiment, validation_rows(experiment.config))
    last = [dataclasses.replace(e, **{name: getattr(e, name)[-1:] for name in names}) for e in examples]
    return float(np.mean(score(experiment, prompt, last).outputs["nll"]))


def samples(experiment: Experiment, prompt: Prompt) -> list[str]:
    """A few texts drawn after the prompt; the template has no field, so its rows are empty."""
    return generate(experiment.backbone, [{}] * SAMPLES, prompt, seed=1, batch_size=SAMPLES, **SAMPLING)


def stories260k(paths: list[Path], data: Path | None) -> tuple[list[dict], str]:
    """Loss of bank customers' questions under a model that has read only children's stories."""
    records = []
    for path in paths:
        record, experiment, prompt = run(path, 0, data)
        end = end_loss(experiment, prompt)
        words = (record["loss"] * record["target_tokens"] - end * record["examples"]) / (
            record["target_tokens"] - record["examples"]
        )
        record |= {"end_loss": end, "words_loss": words, "samples": samples(experiment, prompt)}
        records.append(record)
    rows = [
        (
            f"`{r['config']}`",
            f"{r['prompt_parameters']:,}",
            r["step"],
            f"{r['loss']:.3f}",
            f"{r['perplexity']:.1f}",
            f"{r['words_loss']:.3f}",
            f"{np.exp(r['words_loss']):.1f}",
            f"{r['end_loss']:.2f}",
        )
        for r in records
    ]
    head = ("config", "learned numbers", "steps", "loss", "perplexity", "loss, words", "perplexity, words", "loss, end")
    text = [
        common.table(head, rows),
        "",
        "Texts sampled after the prompt (temperature 0.7, top-p 0.9, the first four drawn):",
    ]
    for r in records:
        text += ["", f"`{r['config']}`", "", *(f"- {' '.join(s.split()) or '(empty)'}" for s in r["samples"])]
    backbone = load(load_config(paths[0]).model, remat="none")
    (written,) = generate(backbone, [STORY], max_new_tokens=60)
    verdict = "equal to" if written.startswith(STORY_GOES_ON) else "DIFFERENT from"
    text += [
        "",
        f"Greedy continuation of {STORY!r} without a prompt, {verdict} the reference: {' '.join(written.split())!r}",
    ]
    return records, "\n".join(text)


def classification(paths: list[Path], data: Path | None) -> tuple[list[dict], str]:
    """Accuracy on the development set; three seeds where the set is small or few examples are drawn, else one."""
    records = []
    for path in paths:
        config = load_config(path)
        varies = config.train.steps > 0 and (data is not None or config.data.per_label is not None)
        records += [run(path, seed, data)[0] for seed in ((0, 1, 2) if varies else (0,))]
    rows = []
    for name in dict.fromkeys(r["config"] for r in records):
        mine = [r for r in records if r["config"] == name]
        scores = [100 * r["accuracy"] for r in mine]
        rows.append(
            (
                f"`{name}`",
                f"{mine[0]['prompt_parameters']:,}",
                f"{mine[0]['head_parameters']:,}",
                mine[0]["step"],
                f"**{statistics.mean(scores):.1f}**",
                ", ".join(f"{s:.1f}" for s in scores),
                f"{statistics.mean(r['loss'] for r in mine):.3f}",
                "" if mine[0]["step_seconds"] is None else f"{statistics.median(r['step_seconds'] for r in mine):.2f}",
            )
        )
    head = ("config", "prompt numbers", "head numbers", "steps", "accuracy %", "by seed", "loss", "s per step")
    majority = f"Always the most frequent class of the training rows: {100 * records[0]['majority_accuracy']:.1f} %."
    return records, f"{common.table(head, rows)}\n\n{majority}"


SUITES = {"stories260k": stories260k, "banking77": classification, "sst2": classification}


def plot(records: list[dict], path: Path) -> None:
    """Training loss by step: one line per config, the mean over its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(figsize=(7, 4))
    for name in dict.fromkeys(r["config"] for r in records if r["train_loss_by_step"]):
        curves = [r["train_loss_by_step"] for r in records if r["config"] == name]
        steps = [step for step, _ in curves[0]]
        axes.plot(steps, np.mean([[loss for _, loss in curve] for curve in curves], axis=0), label=name.split("/")[1])
    axes.set(xlabel="step", ylabel="training loss (nats)")
    axes.legend()
    plt.tight_layout()
    plt.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--data", type=Path, help="folder of train.tsv and dev.tsv (default: as the configs say)")
    args = parser.parse_args()
    if args.data is not None and args.suite != "sst2":
        parser.error("--data is for sst2: the data of the other suites comes with the package")
    if args.data is None and args.suite == "sst2":
        parser.error("sst2 needs --data: the data set does not come with the package")
    paths = sorted(Path("configs", args.suite).glob("*.yaml"))
    records, measured = SUITES[args.suite](paths, args.data)
    common.RESULTS.mkdir(exist_ok=True)
    result = common.RESULTS / f"quality_{args.suite}"
    result.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    plot(records, result.with_suffix(".png"))
    common.put_measured(result.with_suffix(".md"), measured)
    print(measured)


if __name__ == "__main__":
    main()
