"""Rows of thousands of tokens: what a step holds in memory and how long it takes, in blocks of queries and without them.

    python benchmarks/long_rows.py

GPT-2's width and heads (four layers, rotary positions, random weights), 20 soft tokens in front, one row; the last 64 tokens are
the target. Memory is the compiled step's own beside weights and arguments. A process of its own for each cell. Writes
results/long_rows.md.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import optax

import jaxprompt
from jaxprompt.backbone import random_backbone
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.ops import attention
from jaxprompt.training.step import init_state, make_train_step

STORIES = Path(__file__).parents[1] / "tests" / "golden" / "stories260K"
SIZES = {"hidden_size": 768, "num_layers": 4, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64, "mlp_size": 2048}
TOKENS, REPEATS = (1024, 2048, 4096, 8192), 3
# Beyond it, logits in one piece are only compiled: they would take more than this machine has.
RUN_WHOLE = 4096


def measure(tokens: int, blocks: bool) -> dict:
    """Bytes that a step holds, and its seconds where it is run."""
    if not blocks:
        attention.LONG_LOGITS = 1 << 62
    stories = jaxprompt.load_backbone(str(STORIES))
    config = dataclasses.replace(stories.config, **SIZES, max_positions=TOKENS[-1] + 32)
    backbone = random_backbone(config, tokenizer=stories.tokenizer)
    word = " the"
    rows = [{"text": word * (tokens - 96), "target": word * 64}]
    tree = {
        "model": "m",
        "template": "{soft:20}{text}{target}",
        "method": {"init": {"type": "uniform"}},
        "data": {"train": rows},
        "train": {"batch_size": 1, "steps": 10},
    }
    experiment = build(jaxprompt.load_config(tree), backbone)
    data, optimizer = TrainingData.load(experiment), optax.adam(1e-3)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    state, batch = init_state(experiment.init_trainable(), optimizer), jax.tree.map(jnp.asarray, data.train[0])
    program = step.jitted.lower(step.frozen, state, batch).compile()
    found = {"tokens": batch.inputs.ids.size, "blocks": blocks, "bytes": program.memory_analysis().temp_size_in_bytes}
    if blocks or tokens <= RUN_WHOLE:
        seconds = []
        for _ in range(REPEATS + 1):
            begun = time.perf_counter()
            state, _ = jax.block_until_ready(program(step.frozen, state, batch))
            seconds.append(time.perf_counter() - begun)
        found["seconds"] = statistics.median(seconds[1:])
    return found


def main() -> None:
    lines = ["| tokens | memory, blocks | memory, whole | s, blocks | s, whole |", "| --- | --- | --- | --- | --- |"]
    for tokens in TOKENS:
        both = []
        for blocks in (True, False):
            command = [sys.executable, __file__, str(tokens), str(int(blocks))]
            both.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(both[-1], file=sys.stderr)
        memory = " | ".join(f"{found['bytes'] / 1e9:.2f} GB" for found in both)
        seconds = " | ".join(f"{found['seconds']:.1f}" if "seconds" in found else "not run" for found in both)
        lines.append(f"| {both[0]['tokens']} | {memory} | {seconds} |")
    common.put_measured(common.RESULTS / "long_rows.md", "\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(int(sys.argv[1]), bool(int(sys.argv[2])))))
    else:
        main()
