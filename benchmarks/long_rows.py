"""Rows of thousands of tokens: what a step holds in memory and how long it takes, in blocks of queries and without them.

    python benchmarks/long_rows.py

GPT-2's width and heads (four layers, rotary positions, random weights), 20 soft tokens in front, one row; the last 64 tokens are
the target. Memory is the compiled step's own beside weights and arguments. A process of its own for each cell. Then constant text
of up to 32,768 tokens in front of the prompt, which is read once per run, in chunks. Writes results/long_rows.md.
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
from jaxprompt.experiment.build import Experiment, build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.ops import attention
from jaxprompt.training.step import init_state, make_train_step

STORIES = Path(__file__).parents[1] / "tests" / "golden" / "stories260K"
SIZES = {"hidden_size": 768, "num_layers": 4, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64, "mlp_size": 2048}
TOKENS, REPEATS = (1024, 2048, 4096, 8192), 3
CONSTANT = (2048, 8192, 32768)
WORD = " the"
# Beyond it, logits in one piece are only compiled: they would take more than this machine has.
RUN_WHOLE = 4096


def experiment_of(template: str, tokens: int) -> Experiment:
    """A run of one row of so many tokens."""
    stories = jaxprompt.load_backbone(str(STORIES))
    config = dataclasses.replace(stories.config, **SIZES, max_positions=CONSTANT[-1] + 1024)
    backbone = random_backbone(config, tokenizer=stories.tokenizer)
    rows = [{"text": WORD * (tokens - 96), "target": WORD * 64}]
    tree = {
        "model": "m",
        "template": template,
        "method": {"init": {"type": "uniform"}},
        "data": {"train": rows},
        "train": {"batch_size": 1, "steps": 10},
    }
    return build(jaxprompt.load_config(tree), backbone)


def of_constant(tokens: int) -> dict:
    """Bytes and seconds of reading so many tokens of constant text, and of a step behind it."""
    experiment = experiment_of(WORD * tokens + "{soft:20}{text}{target}", 256)
    data, optimizer = TrainingData.load(experiment), optax.adam(1e-3)
    forward = experiment.forward(data.hoisted)
    program = forward.prefill()
    begun = time.perf_counter()
    frozen = jax.block_until_ready(forward.frozen(program))
    found = {"seconds": time.perf_counter() - begun, "bytes": program.memory_analysis().temp_size_in_bytes}
    found["kept"] = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen["hard_prefix"]))
    step = make_train_step(forward, experiment.method, optimizer, frozen)
    state, batch = init_state(experiment.init_trainable(), optimizer), jax.tree.map(jnp.asarray, data.train[0])
    of_step = step.jitted.lower(step.frozen, state, batch).compile()
    found |= {"hoisted": len(data.hoisted), "step_bytes": of_step.memory_analysis().temp_size_in_bytes}
    found["finite"] = bool(jnp.isfinite(step(state, batch)[1]["loss"]))
    return found


def measure(tokens: int, blocks: bool) -> dict:
    """Bytes that a step holds, and its seconds where it is run."""
    if not blocks:
        attention.LONG_LOGITS = 1 << 62
    experiment = experiment_of("{soft:20}{text}{target}", tokens)
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


def of_process(*arguments: int) -> dict:
    """What a process of its own measures."""
    command = [sys.executable, __file__, *map(str, arguments)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(found, file=sys.stderr)
    return found


def main() -> None:
    lines = ["| tokens | memory, blocks | memory, whole | s, blocks | s, whole |", "| --- | --- | --- | --- | --- |"]
    for tokens in TOKENS:
        both = [of_process(tokens, blocks) for blocks in (1, 0)]
        memory = " | ".join(f"{found['bytes'] / 1e9:.2f} GB" for found in both)
        seconds = " | ".join(f"{found['seconds']:.1f}" if "seconds" in found else "not run" for found in both)
        lines.append(f"| {both[0]['tokens']} | {memory} | {seconds} |")
    lines += ["", "| constant tokens | memory while they are read | s | kept | memory of a step behind them |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for tokens in CONSTANT:
        found = of_process(tokens)
        assert found["finite"], "the step behind it is not finite"
        sizes = [f"{found[name] / 1e9:.2f} GB" for name in ("bytes", "kept", "step_bytes")]
        lines.append(f"| {found['hoisted'] - 20} | {sizes[0]} | {found['seconds']:.0f} | {sizes[1]} | {sizes[2]} |")
    common.put_measured(common.RESULTS / "long_rows.md", "\n".join(lines))


if __name__ == "__main__":
    if sys.argv[2:]:
        print(json.dumps(measure(int(sys.argv[1]), bool(int(sys.argv[2])))))
    elif sys.argv[1:]:
        print(json.dumps(of_constant(int(sys.argv[1]))))
    else:
        main()
