"""What a profiler's trace says of a device: its kernels by their share of the time, and how long it waited."""

from collections import Counter
from pathlib import Path

import jax

SHOWN = 40


def shares(folder: Path, steps: int) -> dict:
    """Reads the newest trace in a folder.

    Returns:
      `busy_seconds` and `span_seconds` of the device per step, the number of `kernels` per step, and `by_kernel`, lists of
      name, calls per step and seconds per step, those that take longest first. Nothing of a CPU, which has no such trace.
    """
    file = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    took, calls, spans = Counter(), Counter(), []
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                # What XLA calls it, and the kernel's own name, which tells who wrote it.
                name = f"{stats.get('hlo_op', '')} {event.name}"[:160]
                took[name] += event.duration_ns * 1e-9
                calls[name] += 1
                spans.append((event.start_ns, event.start_ns + event.duration_ns))
    if not spans:
        return {}
    busy, until = 0.0, 0.0
    for start, stop in sorted(spans):
        busy += max(stop - max(start, until), 0.0)
        until = max(until, stop)
    return {
        "busy_seconds": busy * 1e-9 / steps,
        "span_seconds": (until - min(spans)[0]) * 1e-9 / steps,
        "kernels": len(spans) / steps,
        "by_kernel": [[name, calls[name] / steps, t / steps] for name, t in took.most_common(SHOWN)],
    }
