"""Programs that are compiled before their first call, from shapes alone."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxprompt.machine.background import Background
from jaxprompt.machine.sharding import batch_shardings


def shape_of(leaf: Any, sharding: NamedSharding | None = None) -> jax.ShapeDtypeStruct:
    """The shape, the type and the place of an array, or of what will be one; `sharding`: another place."""
    if sharding is None and getattr(leaf, "committed", True):
        sharding = getattr(leaf, "sharding", None)
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


def shapes_on(sharding: NamedSharding, tree: Any) -> Any:
    """The shapes of a tree of arrays, all of them in one place."""
    return jax.tree.map(lambda leaf: shape_of(leaf, sharding), tree)


def batch_shapes(batch: Any, mesh: Mesh) -> Any:
    """The shapes of a batch, as it lies on a mesh."""
    return jax.tree.map(shape_of, batch, batch_shardings(mesh, batch))


class Ahead:
    """A jitted function whose last argument, a batch, comes in few shapes; some of its programs are compiled ahead.

    Attributes:
      jitted: the function; it compiles at the first call for every other shape, and where arguments lie elsewhere.
      programs: by the batch's shapes, the programs that are compiled ahead, or are being.
    """

    def __init__(self, jitted: Callable):
        self.jitted = jitted
        self.programs: dict[Any, Future] = {}

    def begin(self, background: Background, calls: Sequence[tuple]) -> None:
        """Begins to compile for these arguments, of which the shapes count; the first call's program comes first."""
        # Of all settings that a user may have made for this thread alone, the one that changes a program.
        precision = jax.config.jax_default_matmul_precision

        def compiled(args):
            start = time.perf_counter()
            with jax.default_matmul_precision(precision):
                program = self.jitted.lower(*args).compile()
            return program, time.perf_counter() - start

        futures = background.begin(*(lambda args=args: compiled(args) for args in calls))
        self.programs = dict(zip((_shapes(args[-1]) for args in calls), futures, strict=True))

    def seconds(self, batch: Any) -> float | None:
        """Waits for the program of such a batch and returns how long it took to compile; None: it is not begun."""
        program = self.programs.get(_shapes(batch))
        return None if program is None else program.result()[1]

    def __call__(self, *args):
        # A program takes arguments that lie as it was compiled for, and no others. The first argument is the frozen
        # one, which is always where its shapes said.
        found = self.programs.get(_shapes(args[-1])) if self.programs else None
        if found is not None:
            program, _ = found.result()
            if _placed(args[1:], program.input_shardings[0][1:]):
                return program(*args)
        return self.jitted(*args)


def _shapes(batch: Any) -> Any:
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _placed(args: tuple, shardings: tuple) -> bool:
    # None is no argument, or none that the program uses.
    leaves, places = (jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None) for tree in (args, shardings))
    return len(leaves) == len(places) and all(
        place is None or leaf.sharding.is_equivalent_to(place, leaf.ndim)
        for leaf, place in zip(leaves, places, strict=True)
    )
