"""The tables of what `card.py` measured."""

import statistics

import common


def report(records: list[dict]) -> str:
    """Markdown of all records, by machine and kind."""
    text = ["# One GPU", ""]
    for machine in dict.fromkeys(record["machine"] for record in records):
        mine = [record for record in records if record["machine"] == machine]
        text += [f"## {machine}", ""]
        for kind, (title, head, row) in KINDS.items():
            rows = [row(record) for record in mine if record["measured"] == kind]
            text += [title, "", common.table(head, rows), ""] if rows else []
        for record in mine:
            if record["measured"] == "profile":
                text += _profile(record)
            if record["measured"] == "checks":
                text += ["The tests marked `gpu`:", "", "```", *record["output"].splitlines()[-12:], "```", ""]
    return "\n".join(text)


def _compile(r: dict) -> tuple:
    if "failed" in r:
        return (f"`{r['workload']}`", r["variant"], r["failed"], "", "", "")
    step = statistics.median(r["seconds_per_step"])
    return (
        f"`{r['workload']}`",
        r["variant"],
        ", ".join(r["row_shapes"]),
        f"{r['compile_seconds']:.1f}",
        f"{1e3 * step:.1f}",
        f"{r['peak_memory_bytes'] / 1e9:.1f}",
    )


def _step(r: dict) -> tuple:
    theirs, ours = (statistics.median(r["seconds_per_step"][side]) for side in ("peft", "jaxprompt"))
    facts = r["jaxprompt"]
    share = facts["flops_per_step"] / ours / facts["matmul_flops_per_second"]
    parts = r["peft"]["accumulate"]
    return (
        f"`{r['workload']}`",
        f"{theirs:.4f}" + (f" ({parts} parts)" if parts > 1 else ""),
        f"{ours:.4f}",
        f"**{r['ratio']:.2f}**",
        f"{100 * share:.0f} %",
        f"{r['peft']['peak_memory_bytes'] / 1e9:.1f}, {facts['peak_memory_bytes'] / 1e9:.1f}",
        f"{r['first_loss_difference']:.1e}",
        f"{facts['attention']}, {'unrolled' if facts['unroll'] else 'loop'}; {r['peft']['setting']}",
    )


def _cold(r: dict) -> tuple:
    sides = (r[name] for name in ("empty_cache", "filled_cache", "peft"))
    return (
        f"`{r['workload']}`",
        r["steps"],
        *(f"{side['seconds']:.1f} ({side['first_step_seconds']:.1f})" for side in sides),
    )


def _generate(r: dict) -> tuple:
    sides = [f"{r[side]['seconds']:.2f} ({r[side]['first_seconds']:.1f})" for side in ("transformers", "jaxprompt")]
    return f"`{r['workload']}`", r["tokens"], *sides, f"**{r['ratio']:.2f}**"


def _profile(r: dict) -> list[str]:
    rows = [(f"`{what[:90]}`", f"{calls:.0f}", f"{1e3 * t:.3f}") for what, calls, t in r["by_kernel"][:15]]
    busy = f"busy {1e3 * r['busy_seconds']:.1f} of {1e3 * r['span_seconds']:.1f} ms"
    return [
        f"Kernels of a step of `{r['workload']}`, {r['kernels']:.0f} in all, {busy}:",
        "",
        common.table(("kernel", "calls", "ms"), rows),
        "",
    ]


KINDS = {
    "compile": (
        "The first step by what XLA is told, in a new process with an empty cache:",
        ("workload", "variant", "rows", "compiled in s", "step ms", "peak GB"),
        _compile,
    ),
    "step": (
        "Seconds per step, PEFT and jaxprompt:",
        (
            "workload",
            "PEFT",
            "jaxprompt",
            "ratio",
            "of a product's speed",
            "peak GB: PEFT, jaxprompt",
            "first loss differs by",
            "computed by",
        ),
        _step,
    ),
    "cold": (
        "Seconds from the command to the saved prompt (to the first step), processes that have done nothing before:",
        ("workload", "steps", "jaxprompt, empty cache", "jaxprompt, filled cache", "PEFT"),
        _cold,
    ),
    "generate": (
        "Seconds to write, the second time (the first time):",
        ("workload", "tokens", "transformers", "jaxprompt", "ratio"),
        _generate,
    ),
}
