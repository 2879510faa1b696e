"""Chips that are not at hand, which XLA can compile for all the same; and simulated devices, where it cannot."""

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import topologies

from jaxprompt.errors import InputError

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
      link: bytes per second that it sends to other chips while it receives as many.
      topologies: those that its compiler knows, ascending; none: any number of chips, eight to a host.
    """

    name: str
    platform: str
    memory: float
    bandwidth: float
    products: dict[str, float]
    link: float
    topologies: tuple[str, ...] = ()

    def topology(self, chips: int) -> str:
        """The smallest topology of so many chips. Raises InputError where there is none."""
        if not self.topologies:
            return f"1x{chips // 8}x8" if chips % 8 == 0 else f"1x1x{chips}"
        found = next((name for name in self.topologies if chips_of(name) >= chips), None)
        if found is None:
            raise InputError(f"{self.name}: no topology has {chips} chips (the largest is {self.topologies[-1]})")
        return found


_PLANES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
TARGETS = {
    "h100": Target(
        "NVIDIA H100 80GB SXM", "cuda", 80e9, 3.35e12, {"bf16": 989e12, "f16": 989e12, "f32": 495e12}, 450e9
    ),
    "v5e": Target("TPU v5e", "tpu", 15.75 * 2**30, 819e9, {"bf16": 197e12}, 200e9, _PLANES),
    "v6e": Target("TPU v6e", "tpu", 31.25 * 2**30, 1640e9, {"bf16": 918e12}, 448e9, _PLANES),
    "v5p": Target("TPU v5p", "tpu", 95.74 * 2**30, 2765e9, {"bf16": 459e12}, 600e9, _CUBES),
}


def chips_of(topology: str) -> int:
    """The chips of a topology such as 16x16. Raises InputError for what is none."""
    try:
        sizes = [int(size) for size in topology.split("x")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"topology {topology!r}: give chips by axis, such as 4x4 or 2x2x4")
    return math.prod(sizes)


def missing_compiler(target: Target) -> str | None:
    """What has to be installed to compile for a target; None: it is there."""
    if target.platform == "tpu":
        return None if importlib.util.find_spec("libtpu") else "jaxprompt[tpu]"
    plugins = importlib.util.find_spec("jax_plugins")
    found = (
        [place for place in (plugins.submodule_search_locations or ()) if any(Path(place).glob("xla_cuda*"))]
        if plugins
        else []
    )
    return None if found else "jax[cuda12]"


@contextlib.contextmanager
def devices_of(name: str, topology: str | None, count: int) -> Iterator[list[jax.Device]]:
    """So many devices of a target to compile for; within, the library takes them for this machine's own.

    Args:
      name: one of `TARGETS`, whose compiler is installed.
      topology: of the chips; None: the smallest that has so many.

    Raises:
      InputError: a topology that the compiler does not know, or that has fewer chips.
    """
    target = TARGETS[name]
    topology = topology or target.topology(count)
    own = jax.default_backend
    try:
        found = _tpu(name, topology) if target.platform == "tpu" else _cuda(name, topology)
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"topology {topology!r} of {target.name}: {reason} (name another)") from None
    if len(found) < count:
        raise InputError(
            f"topology {topology!r} of {target.name} has {len(found)} chips, not {count}: name a larger one"
        )
    jax.default_backend = lambda: "tpu" if target.platform == "tpu" else "gpu"
    try:
        yield found[:count]
    finally:
        jax.default_backend = own


def _tpu(name: str, topology: str) -> list:
    for key, value in NO_CLOUD.items():
        os.environ.setdefault(key, value)
    return topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{topology}").devices


def _cuda(name: str, topology: str) -> list:
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks the machine what it would find on the card.
    fused_attention_stablehlo.check_cudnn_version = lambda: 91000
    fused_attention_stablehlo.check_compute_capability = lambda capability: True
    card = Path(__file__).with_name(f"{name}.txtpb").read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=card, topology=topology).devices


def simulated(count: int) -> list[jax.Device]:
    """So many CPU devices, to compile for. JAX must not have looked for its devices yet.

    Raises InputError where it has, and found fewer.
    """
    # A number in XLA_FLAGS is not to be said twice.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise InputError(
            f"this process has {len(found)} CPU devices, not {count}: plan in a process of its own, without XLA_FLAGS"
        )
    return found[:count]
