"""PEFT's own prompt tuning and prefix tuning beside `methods.py`: the same rows, steps and schedule, from PEFT's own start.

    python benchmarks/methods_peft.py --data-root FOLDER [--only minilm/sst2 ...] [--steps 2]

From the repository's root, after `methods.py`. PEFT can put a prompt in front of all text only. Of the suites of `methods.py`,
those of classes and of single label words; the records are added to methods.jsonl, and `methods.py` makes the tables.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import common
import methods
import numpy as np
import torch
import transformers
from peft_worker import Side, reference_path

from jaxprompt.experiment.rows import training_rows, validation_rows

# PEFT's method, the middle one of three learning rates.
PEFT = {"PEFT prompt tuning": ("soft", 0.03), "PEFT prefix tuning": ("prefix", 0.01)}
SUITES = ("minilm/sst2", "smollm2/sst2")


class Learner(Side):
    """A workload's folder, whose prompt starts as PEFT starts it."""

    def reset(self) -> None:
        trained = [{"params": [self.prompt]}]
        if self.head is not None:
            trained.append({"params": list(self.head.parameters()), "lr": methods.HEAD_RATE})
        self.optimizer = torch.optim.AdamW(trained, lr=self.work["learning_rate"], weight_decay=0.0)
        self.at = 0

    def learn(self, seed: int, rate: float, order: np.ndarray) -> float:
        """Takes the steps of an order of rows; the median seconds of one."""
        self.work["learning_rate"] = rate
        torch.manual_seed(seed)
        self.setup("sdpa", 1)
        steps, seconds = len(order), []
        self.batches = order
        scale = lambda at: min((at + 1) / methods.WARMUP, (steps - at) / max(steps - methods.WARMUP, 1), 1.0)  # noqa: E731
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, scale)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(trained, 1.0) and None)
        for _ in range(steps):
            begun = time.perf_counter()
            self._step()
            schedule.step()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)

    @torch.no_grad()
    def accuracy(self, first: int, size: int = 64) -> float:
        """Of the rows from a number on."""
        numbers = list(range(first, len(self.ids)))
        numbers.sort(key=lambda i: len(self.ids[i]))
        right = 0
        for at in range(0, len(numbers), size):
            part = numbers[at : at + size]
            guessed = self.label_logits(part).argmax(-1).tolist()
            right += sum(guess == self.labels[i] for guess, i in zip(guessed, part, strict=True))
        return right / len(numbers)


def folder_of(suite: str, method: str, root: Path, work: Path) -> tuple[Path, int]:
    """A workload's folder of a suite's rows, and how many of them are learned from."""
    config = methods.config_of(suite, "none", root, work, {"seed": methods.SEEDS}, 0.0)
    train, validation = training_rows(config), validation_rows(config)
    column, objective = config.data.label, methods.SUITES[suite]["objective"]
    rows = [{**row, "label": str(row[column])} for row in (*train, *validation)]
    labels = objective.get("labels") or sorted({row["label"] for row in rows})
    settings = {
        "model": model_folder(config.model, work),
        "objective": objective["type"],
        "method": method,
        "labels": labels,
        "dtype": "float32",
        "prompt_length": methods.LENGTH,
        "template": template_of(suite, method, config.model, work),
        "peft_template": "",
        "learning_rate": 0.0,
    }
    folder = work / f"{suite.replace('/', '_')}_{method}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    np.save(folder / "batches.npy", np.zeros((1, 1), np.int64))
    width = transformers.AutoConfig.from_pretrained(settings["model"]).hidden_size
    np.savez(folder / "init.npz", head_weight=np.zeros((len(labels), width), np.float32))
    return folder, len(train)


def model_folder(reference: str, work: Path) -> str:
    """Where PyTorch finds a model; a GGUF file is first written as transformers reads it."""
    file = reference_path(reference)
    if file.suffix != ".gguf":
        return str(file)
    to = work / file.stem
    if not (to / "tokenizer.json").exists():
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        # Its weights are plain float32 by now.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(to)
        transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(to)
    return str(to)


def template_of(suite: str, method: str, model: str, work: Path) -> str:
    """The suite's text with the prompt in front of all of it; the words of a question stay."""
    tree, soft = methods.SUITES[suite], f"{{soft:{methods.LENGTH}}}" if method == "soft" else ""
    if "chat" not in tree:
        return tree["template"].replace("{soft} ", soft).replace("{behind}", "")
    asked = tree["chat"][0]["content"].replace("{soft}", tree["text"]).replace("{behind}", "")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(model, work))
    turns = [{"role": "user", "content": asked}]
    return soft + tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + "{target}"


def measured(side: Learner, middle: float, count: int, steps: int, size: int) -> dict:
    """The best of three learning rates, tried with the first seed; then the other seeds.

    Args:
      side: its first `count` rows are learned from, the others validated.
      middle: one of the rates.
      size: rows of a step.
    """
    begun, seconds = time.perf_counter(), []

    def score(seed: int, rate: float) -> float:
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(count) for _ in range(-(-steps * size // count))])
        seconds.append(side.learn(seed, rate, order[: steps * size].reshape(steps, size)))
        return side.accuracy(count)

    first, *others = methods.SEEDS
    by_rate = {middle * times: score(first, middle * times) for times in methods.RATES}
    rate = max(by_rate, key=by_rate.get)
    accuracy = {f"seed={first}": by_rate[rate]} | {f"seed={seed}": score(seed, rate) for seed in others}
    learned = {"prompt": side.prompt.numel()}
    if side.head is not None:
        learned["head"] = sum(p.numel() for p in side.head.parameters())
    return {
        "population": {"seed": methods.SEEDS},
        "rate": rate,
        "rates": by_rate,
        "accuracy": accuracy,
        "learned": learned,
        "steps": steps,
        "step_seconds": statistics.median(seconds),
        "minutes": (time.perf_counter() - begun) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with sst2/")
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES), help="these suites")
    parser.add_argument("--steps", type=int, help="to try it: so few, and nothing is kept")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("runs/methods_peft"), help="where models and rows are kept"
    )
    args = parser.parse_args()
    lines = common.RESULTS / "methods.jsonl"
    known = common.read_records(lines)
    for suite in args.only:
        options = methods.SUITES[suite]["train"]
        steps, size = args.steps or options["steps"], options["batch_size"]
        for name, (method, middle) in PEFT.items():
            if not args.steps and any((r["suite"], r["method"]) == (suite, name) for r in known):
                continue
            folder, count = folder_of(suite, method, args.data_root, args.work_dir)
            record = {"suite": suite, "method": name, **measured(Learner(folder), middle, count, steps, size)}
            print(json.dumps(record), flush=True)
            if not args.steps:
                common.append_record(lines, record)


if __name__ == "__main__":
    main()
