"""Chips that are not at hand, which XLA can compile for all the same."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What libtpu would ask a cloud machine for; and there is no chip that a process could have to itself.
NO_CLOUD = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Target:
    """A chip, by its maker's data sheet.

    Attributes:
      memory: bytes that a program can have.
      bandwidth: bytes per second of its memory.
      products: FLOPs per second by the operands' type, without sparsity.
      topology: the smallest that the compiler knows.
    """

    name: str
    platform: str
    memory: float
    bandwidth: float
    products: dict[str, float]
    topology: str


TARGETS = {
    "h100": Target(
        "NVIDIA H100 80GB SXM", "cuda", 80e9, 3.35e12, {"bf16": 989e12, "f16": 989e12, "f32": 495e12}, "1x1x1"
    ),
    "v5e": Target("TPU v5e", "tpu", 15.75 * 2**30, 819e9, {"bf16": 197e12}, "2x2"),
    "v6e": Target("TPU v6e", "tpu", 31.25 * 2**30, 1640e9, {"bf16": 918e12}, "2x2"),
    "v5p": Target("TPU v5p", "tpu", 95.74 * 2**30, 2765e9, {"bf16": 459e12}, "2x2x1"),
}


@contextlib.contextmanager
def devices_of(target: str, topology: str | None, count: int) -> Iterator[list]:
    """So many devices of a target to compile for; within, the library takes them for this machine's own."""
    chip = TARGETS[target]
    for name, value in NO_CLOUD.items():
        os.environ.setdefault(name, value)
    import jax
    from jax.experimental import topologies

    own = jax.default_backend
    if chip.platform == "tpu":
        name = f"{target}:{topology or chip.topology}"
        found = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        backend = "tpu"
    else:
        from jax._src.cudnn import fused_attention_stablehlo

        # JAX asks the machine what it would find on the card.
        fused_attention_stablehlo.check_cudnn_version = lambda: 91000
        fused_attention_stablehlo.check_compute_capability = lambda capability: True
        card = Path(__file__).with_name(f"{target}.txtpb").read_text()
        found = topologies.get_topology_desc(platform="cuda", target_config=card, topology=chip.topology).devices
        backend = "gpu"
    if len(found) < count:
        raise SystemExit(
            f"{target} {topology or chip.topology} has {len(found)} chips, the mesh needs {count}: --topology"
        )
    jax.default_backend = lambda: backend
    try:
        yield found[:count]
    finally:
        jax.default_backend = own
