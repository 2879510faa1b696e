"""Makes a workload's folder: `model/` as Hugging Face files, `rows.jsonl`, and `workload.json` for the two sides."""

import dataclasses
import hashlib
import json
import random
from pathlib import Path

import models
import workloads
from workloads import Workload

MINIMUM_STEPS = 64


def prepare(name: str, workload: Workload, data_root: Path, work: Path, steps: int, weights: bool = True) -> Path:
    """Returns the folder of a workload, which is made if it is not there.

    Args:
      data_root: folder of the data sets.
      work: where models and rows are kept; they depend on nothing but the arguments.
      steps: how many different batches there are at least.
      weights: whether those of a model of known shape are drawn, too (`draw_weights`).
    """
    settings = dataclasses.asdict(workload) | {"batches": max(steps, MINIMUM_STEPS)}
    folder = work / f"{name}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"
    if not (folder / "workload.json").exists():
        _write(folder, name, workload, settings, data_root, work)
    if weights:
        draw_weights(folder)
    return folder


def _write(folder: Path, name: str, workload: Workload, settings: dict, data_root: Path, work: Path) -> None:
    """Makes the folder, but for the weights of its model."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = shuffled_rows(workload, data_root)
    model, tokenizer = _model(workload, rows, work)
    template = workload.template
    if workload.fewshot_tokens:
        text = _fewshot(workload, rows, tokenizer)
        template = template.replace("{fewshot}", text.replace("{", "{{").replace("}", "}}"))
    if workload.data == "lm":
        rows = equal_rows(rows, tokenizer, workload.tokens)
    count = min(len(rows), settings["batches"] * workload.batch_size)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[:count])
    settings |= {"name": name, "model": model, "shape": workload.model, "template": template}
    settings |= {"prompt_length": workload.prompt_length}
    (folder / "workload.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def draw_weights(folder: Path, device: str = "cpu") -> None:
    """Makes the weights of a workload's model, unless they are there or it is a real one."""
    settings = read_workload(folder)
    model = Path(settings["model"])
    if settings["shape"] in models.SHAPES and not list(model.glob("model*.safetensors")):
        models.save_model(settings["shape"], model, settings["dtype"], device=device)


def config_tree(settings: dict, data: str | list[dict]) -> dict:
    """The config of a workload in jaxprompt, but for what a benchmark may choose.

    Args:
      settings: as in workload.json.
      data: its rows, or their file.
    """
    labels, soft = settings["labels"], settings["method"] == "soft"
    return {
        "model": settings["model"],
        "dtype": settings["dtype"],
        "template": settings["template"],
        "method": {"name": "soft"} if soft else {"name": "prefix", "length": settings["prefix_length"]},
        "objective": {"type": settings["objective"]} | ({"labels": labels} if labels else {}),
        "data": {"train": data, "cache": settings["cache"]},
        "optimizer": {"name": "adamw", "learning_rate": settings["learning_rate"], "clip_norm": None},
        "train": {"batch_size": settings["batch_size"]},
    }


def shuffled_rows(workload: Workload, data_root: Path) -> list[dict]:
    """The rows of a workload's data set, in the order in which they are drawn from."""
    rows = workloads.ROWS[workload.data](data_root)
    random.Random(0).shuffle(rows)
    return rows


def _model(workload: Workload, rows: list[dict], work: Path):
    """Returns the reference of the model, made if it is one of the shapes, and its tokenizer."""
    from transformers import AutoTokenizer

    if workload.model not in models.SHAPES:
        return workload.model, None
    folder = work / f"{workload.model}-{workload.data}-{workload.dtype}"
    if not (folder / "tokenizer.json").exists():
        models.save_config(workload.model, folder)
        make_tokenizer(workload, rows).save_pretrained(folder)
    return f"../{folder.name}", AutoTokenizer.from_pretrained(folder)


def read_workload(folder: Path) -> dict:
    """The settings of a workload's folder, which may have been moved since."""
    settings = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    if settings["model"].startswith("../"):
        settings["model"] = str((folder / settings["model"]).resolve())
    return settings


def make_tokenizer(workload: Workload, rows: list[dict]):
    """The tokenizer of a workload whose model is one of the shapes."""
    config = models.SHAPES[workload.model]
    texts = (value for row in rows for key, value in row.items() if key != "label")
    words = list(workload.labels.values()) if isinstance(workload.labels, dict) else []
    return models.train_tokenizer(texts, config["vocab_size"], words, config["model_type"])


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _fewshot(workload: Workload, rows: list[dict], tokenizer) -> str:
    """Examples with their answers, as many as fit `fewshot_tokens`; filled up word by word."""
    examples = " ".join(f"{row['sentence']} It was {workload.labels[row['label']]}." for row in rows[-200:])
    words = examples.split(" ")
    low, high = 0, len(words)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if len(_ids(tokenizer, " ".join(words[:middle]))) <= workload.fewshot_tokens
            else (low, middle - 1)
        )
    return " ".join(words[:low])


def equal_rows(rows: list[dict], tokenizer, tokens: int) -> list[dict]:
    """Rows whose targets have so many tokens, the end of sequence included, and no room for padding."""
    text = " ".join(row["target"] for row in rows)
    ids, equal, size = _ids(tokenizer, text), [], tokens - 1
    for at in range(0, len(ids) - size, size):
        target = tokenizer.decode(ids[at : at + size])
        if len(_ids(tokenizer, target)) == size:
            equal.append({"target": target})
    return equal
