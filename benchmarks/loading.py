"""How fast a model folder becomes arrays, and what that takes of memory, next to `cat` and to transformers.

    python benchmarks/loading.py
    python benchmarks/loading.py --torch-python ../torch-env/bin/python --gigabytes 4

Writes a Llama-shaped float32 model in two safetensors files to a temporary folder, reads it once so that it lies in the
page cache, and then takes turns, each load in a process of its own: `cat`, jaxprompt, and transformers where torch can
be imported. Timed is the load alone, from the call until every page of every parameter has been touched, not the
imports. Just before each load another process touches as much memory and frees it: in a virtual machine, memory that
was not used of late is first fetched from the host, at the host's speed and not the loader's. ("Fresh memory" in the
table is the time to touch as many bytes as the files have.) Memory is the highest RssAnon (/proc/PID/status) while loading less that before it: pages of the mapped files
are page cache, which the kernel may drop, and do not count. Writes results/loading.md. Needs Linux.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np

TOUCH = """
import sys, time
import numpy as np
start = time.perf_counter()
np.ones(int(sys.argv[1]), np.uint8)
print(time.perf_counter() - start)
"""
# Each waits for a line before it loads, so that its memory without the model can be taken, and says how long it took.
JAXPROMPT = """
import sys, time
import jax, numpy as np
from jaxprompt.backbone import load_backbone
jax.devices()
folder, dtype, quantize = sys.argv[1:]
print("ready", flush=True)
input()
start = time.perf_counter()
backbone = load_backbone(folder, dtype=dtype, quantize=None if quantize == "none" else quantize)
arrays = jax.block_until_ready(jax.tree.leaves(backbone.params))
if jax.default_backend() == "cpu":
    for array in arrays:
        np.asarray(array).reshape(-1)[::1024].max()
print(time.perf_counter() - start, sum(array.nbytes for array in arrays), flush=True)
input()
"""
TRANSFORMERS = """
import sys, time
import torch, transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
transformers.utils.logging.disable_progress_bar()
folder, dtype, _ = sys.argv[1:]
print("ready", flush=True)
input()
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
parameters = list(model.parameters())
for parameter in parameters:
    parameter.detach().view(-1)[::1024].max()
print(time.perf_counter() - start, sum(p.numel() * p.element_size() for p in parameters), flush=True)
input()
"""


def write_model(folder: Path, gigabytes: float) -> int:
    """Writes a model of about so many gigabytes; returns its bytes."""
    from safetensors.numpy import save_file

    width, mlp, heads, kv_heads, vocab = 2048, 5632, 32, 8, 32000
    shapes = {
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width // heads * kv_heads, width),
        "self_attn.v_proj": (width // heads * kv_heads, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (mlp, width),
        "mlp.up_proj": (mlp, width),
        "mlp.down_proj": (width, mlp),
    }
    layer = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    layers = max(1, round((gigabytes * 1e9 - 4 * vocab * width) / layer))
    whole = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for number in range(layers):
        whole |= {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}
    rng, names = np.random.default_rng(0), sorted(whole)
    places = {}
    for part, chosen in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{part:05}-of-00002.safetensors"
        tensors = {name: rng.standard_normal(whole[name], np.float32) / 50 for name in chosen}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def cat(folder: Path) -> dict:
    """Reads the files and throws them away."""
    files = sorted(map(str, folder.glob("*.safetensors")))
    start = time.perf_counter()
    with Path(os.devnull).open("wb") as sink:
        subprocess.run(["cat", *files], stdout=sink, check=True)
    return {"seconds": time.perf_counter() - start}


def touch(size: int) -> dict:
    """Makes so many bytes of memory resident, and frees them."""
    done = subprocess.run([sys.executable, "-c", TOUCH, str(size)], capture_output=True, text=True, check=True)
    return {"seconds": float(done.stdout)}


def load(python: str, program: str, folder: Path, dtype: str, quantize: str, ready: Callable[[], None]) -> dict:
    """Loads in a new process, after it has imported all and `ready` was called; returns seconds, bytes of parameters and peak bytes of anonymous memory."""
    command = [python, "-c", program, str(folder), dtype, quantize]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    if python != sys.executable:
        del environment["PYTHONPATH"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{python} cannot run the benchmark: its output is above")
        ready()
        before = peak = _anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while not (line := process.stdout.readline()) and process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.005)
        peak = max(peak, _anonymous(process.pid)) if line else peak
        process.communicate("\n")
    if not line:
        raise SystemExit(f"{python} failed to load the model: its output is above")
    seconds, size = line.split()
    return {"seconds": float(seconds), "bytes": int(size), "peak": peak - before}


def _anonymous(pid: int) -> int:
    """Bytes of a process's resident memory that belong to no file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def version(python: str, package: str) -> str | None:
    """A package's version under another interpreter, None if it cannot be imported there."""
    done = subprocess.run(
        [python, "-c", f"import {package} as p; print(p.__version__)"], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None


def row(name: str, runs: list[dict], size: int) -> list[str]:
    """A line of the table: medians."""
    seconds = statistics.median(run["seconds"] for run in runs)
    cells = [name, f"{seconds:.2f}", f"{min(run['seconds'] for run in runs):.2f}", f"{size / seconds / 1e9:.2f}"]
    if "peak" not in runs[0]:
        return [*cells, "", ""]
    peak = statistics.median(run["peak"] / run["bytes"] for run in runs)
    return [*cells, f"{runs[0]['bytes'] / 1e9:.2f}", f"{peak:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="loads of each kind (default: %(default)s)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch (default: this one)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "loading.md", help="(default: %(default)s)")
    args = parser.parse_args()
    kinds = {
        f"jaxprompt {name}": (sys.executable, JAXPROMPT, dtype, quantize)
        for name, dtype, quantize in (
            ("float32", "float32", "none"),
            ("bfloat16", "bfloat16", "none"),
            ("bfloat16, int8", "bfloat16", "int8"),
            ("bfloat16, int4", "bfloat16", "int4"),
        )
    }
    theirs = {name: version(args.torch_python, name) for name in ("torch", "transformers")}
    if all(theirs.values()):
        kinds["transformers float32"] = (args.torch_python, TRANSFORMERS, "float32", "none")
        kinds["transformers bfloat16"] = (args.torch_python, TRANSFORMERS, "bfloat16", "none")
    runs = {"cat": [], "fresh memory": [], **{name: [] for name in kinds}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_model(folder, args.gigabytes)
        cat(folder)

        def ready() -> None:
            touch(size)
            runs["fresh memory"].append(touch(size))

        for _ in range(args.repeats):
            runs["cat"].append(cat(folder))
            for kind, (python, program, dtype, quantize) in kinds.items():
                runs[kind].append(load(python, program, folder, dtype, quantize, ready))
    head = ("", "seconds (median)", "seconds (best)", "GB/s of files", "parameters, GB", "peak / parameters")
    table = common.table(head, [row(kind, found, size) for kind, found in runs.items()])
    versions = common.machine()
    if args.torch_python != sys.executable and all(theirs.values()):
        versions += "; beside it " + ", ".join(f"{name} {value}" for name, value in theirs.items())
    text = (
        "# Loading a model\n\n"
        f"{size / 1e9:.2f} GB of float32 safetensors in two files, from the page cache, into parameters; "
        f"{args.repeats} loads of each kind in turns, each in a new process. Peak is anonymous memory (RssAnon) above "
        f"what the process had before, over the bytes of its parameters. From float32 to float32 transformers copies "
        'nothing: its parameters are the mapped files, read when they are first used. "fresh memory" is the time '
        "to touch as much new memory as the load fills. It is done right before each load, outside its time, because "
        "on a machine whose host had taken memory back first use alone costs seconds per GB.\n\n"
        f"{versions}\n\n{table}\n"
    )
    print(text)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
