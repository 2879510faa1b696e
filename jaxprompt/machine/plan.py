"""What a program takes of each of many devices, and at least in time: told from its compilation, nothing runs."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxprompt.machine import hlo
from jaxprompt.machine.targets import Target


@dataclass(frozen=True)
class Usage:
    """What one call of a compiled program takes of each device.

    Attributes:
      arguments: bytes of what it is given, in the device's own layouts; what it does not use is not among it.
      outputs: bytes of what it returns elsewhere than in its arguments.
      temporary: bytes beyond those, at most at once.
      kept: of these, what the forward pass stacks up for the backward pass (`hlo.kept_bytes`).
      moved: bytes read and written in the device's memory.
      products: FLOPs of products, by the type of their operands.
      sent: bytes sent to other devices, by the kind of exchange.
      exchanges: how many exchanges, by kind.
      seconds: how long its kernels take at least, one after the other; on a TPU, which fetches what a kernel needs while
        the one before it runs, the longer of all products and all memory. Nothing is exchanged in it.
    """

    arguments: int
    outputs: int
    temporary: int
    kept: int
    moved: float
    products: dict[str, float]
    sent: dict[str, float]
    exchanges: dict[str, int]
    seconds: float

    @property
    def flops(self) -> float:
        return sum(self.products.values())


def usage(program: jax.stages.Compiled, target: Target) -> Usage:
    """Reads a program, whose kernels would take as long as they do on `target`. Raises ValueError as `hlo.kernels`."""
    text, memory = program.as_text(), program.memory_analysis()
    products, sent, exchanges, moved, seconds = Counter(), Counter(), Counter(), 0.0, 0.0
    for kernel in hlo.kernels(text):
        moved += kernel.bytes * kernel.times
        for kind, flops in kernel.flops.items():
            products[kind] += flops * kernel.times
        if kernel.collective:
            sent[kernel.collective] += kernel.sent * kernel.times
            exchanges[kernel.collective] += kernel.times
        if kernel.flops or not kernel.collective:
            seconds += kernel_seconds(kernel, target) * kernel.times
    if target.platform == "tpu":
        seconds = max(moved / target.bandwidth, product_seconds(products, target))
    return Usage(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        kept=min(hlo.kept_bytes(text), memory.temp_size_in_bytes),
        moved=moved,
        products=dict(products),
        sent=dict(sent),
        exchanges=dict(exchanges),
        seconds=seconds,
    )


def kernel_seconds(kernel: hlo.Kernel, target: Target) -> float:
    """How long a kernel takes at a chip's published speeds, started in no time."""
    return max(kernel.bytes / target.bandwidth, product_seconds(kernel.flops, target))


def product_seconds(products: dict[str, float], target: Target) -> float:
    """How long products take at a chip's published speeds."""
    return sum(flops / target.products.get(kind, target.products["bf16"]) for kind, flops in products.items())


def device_bytes(tree: Any) -> int:
    """What one device holds of arrays, or of shapes with shardings; where there is no sharding, all."""

    def size(leaf) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def factorings(devices: int) -> Iterator[tuple[int, int, int]]:
    """All ways to arrange devices as data x fsdp x tensor."""
    for tensor in _divisors(devices):
        for fsdp in _divisors(devices // tensor):
            yield devices // tensor // fsdp, fsdp, tensor


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
