"""What the benchmarks share: the machine's name, peak memory, the machine's matmul speed, tables and result files."""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def put_measured(page: Path, measured: str) -> None:
    """Puts what was measured, and on what, between the markers of a page; what is written around them stays."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{machine(jax_devices())}\n\n{measured}\n{END}{after}", encoding="utf-8")


def cpu_name() -> str:
    """The processor's model name, and whether it lacks the instructions that double or treble a product's speed."""
    info = Path("/proc/cpuinfo")
    known = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    known = {key.strip(): value.strip() for key, value in known.items()}
    name = known.get("model name") or platform.processor() or platform.machine()
    flags = known.get("flags", "").split()
    return f"{name} without AVX-512" if "avx2" in flags and "avx512f" not in flags else name


def machine(devices: str | None = None) -> str:
    """One line for the head of a table: where, with what and when.

    Args:
      devices: the accelerators, as in "1 x NVIDIA H100"; None: the CPU is what was measured.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{cores} cores of an {cpu_name()}"
    return f"{where if devices is None else devices}, {versions()}, {datetime.date.today().isoformat()}"


def versions(*more: str) -> str:
    """Versions of what is compared, as far as it is installed."""
    found = []
    for name in ("jax", "torch", "transformers", "peft", *more):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def jax_devices() -> str | None:
    """The accelerators that JAX uses, or None on a CPU."""
    import jax

    device = jax.devices()[0]
    return None if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}"


def peak_rss() -> int:
    """Bytes of this process's largest resident set."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def peak_memory() -> tuple[int, str]:
    """Peak bytes of this JAX process and what they are of: the device's, or the process's on a CPU."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"]), "device"
    return peak_rss(), "process"


def matmul_flops_per_second(dtype: str, size: int | None = None, repeats: int = 7) -> float:
    """FLOPs per second of one large matmul on one device, the median of several: what it can do at most.

    Args:
      size: rows and columns of the matrices; default 2048 on a CPU, 8192 elsewhere.
    """
    import jax
    import jax.numpy as jnp

    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in jax.random.split(jax.random.key(0)))
    matmul = jax.jit(jnp.matmul)
    matmul(a, b).block_until_ready()
    # An accelerator waits for the host at each synchronisation, some per cent of a millisecond's matmul.
    seconds, calls = [], 1 if jax.default_backend() == "cpu" else 20
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            c = matmul(a, b)
        c.block_until_ready()
        seconds.append((time.perf_counter() - start) / calls)
    return 2 * size**3 / statistics.median(seconds)


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def append_record(path: Path, record: dict) -> None:
    """Adds one line to a JSONL file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: Path) -> list[dict]:
    """The lines of a JSONL file, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
