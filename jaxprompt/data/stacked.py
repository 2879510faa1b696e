"""The batches of a population's members, one beside the other in arrays of one shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprompt.data.loader import FreshLoader, Loader
from jaxprompt.types import Batch


@dataclass(frozen=True)
class Chained:
    """The orders of several data sets, whose examples are counted through: their batches in turn.

    Attributes:
      sizes: examples of each data set.
    """

    orders: tuple[Any, ...]
    sizes: tuple[int, ...]

    @property
    def batch_size(self) -> int:
        return self.orders[0].batch_size

    def batch(self, step: int) -> np.ndarray:
        """The numbers of the examples of a batch."""
        turn, whose = divmod(step, len(self.orders))
        return sum(self.sizes[:whose]) + self.orders[whose].batch(turn)


@dataclass(frozen=True)
class StackedLoader:
    """Batches of members that draw from data of their own.

    Attributes:
      loaders: the different ones.
      member: for each member, which of them.
      leads: for each member, `Batch.lead`, of one length; None: there are none.
      keys: for each member, `Batch.keys`; None: there are none.
    """

    loaders: tuple[Loader | FreshLoader, ...]
    member: tuple[int, ...]
    leads: np.ndarray | None = None
    keys: np.ndarray | None = None

    @property
    def batch_size(self) -> int:
        """Examples of one member."""
        return self.loaders[0].batch_size

    def __getitem__(self, step: int) -> Batch:
        """The batches of a step."""
        return self._stacked([loader[step] for loader in self.loaders])

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """As `Loader.train_batches`."""
        for batches in zip(*(loader.train_batches(start_step) for loader in self.loaders), strict=True):
            yield self._stacked(batches)

    def eval_batches(self) -> Iterator[Batch]:
        """Yields every example of every member once."""
        for batches in zip(*(loader.eval_batches() for loader in self.loaders), strict=True):
            yield self._stacked(batches)

    def _stacked(self, batches: Sequence[Batch]) -> Batch:
        found = stack(batches)
        if self.member != tuple(range(len(batches))):
            found = jax.tree.map(lambda x: x[list(self.member)], found)
        return found.replace(lead=self.leads, keys=self.keys)


def stack(batches: Sequence[Batch]) -> Batch:
    """One batch of numpy arrays `[batches, ...]`, each padded to the largest of its kind with what means nothing."""
    optional = ("types", "branches", "mix_ids", "mix")  # by what is in a batch
    for name in optional:
        if any(getattr(batch.inputs, name) is not None for batch in batches):
            batches = [_with(batch, name) for batch in batches]
    leaves = [jax.tree_util.tree_flatten_with_path(batch) for batch in batches]
    stacked = []
    for of_leaf in zip(*(with_paths for with_paths, _ in leaves), strict=True):
        path, arrays = jax.tree_util.keystr(of_leaf[0][0]), [array for _, array in of_leaf]
        shape = tuple(map(max, zip(*(array.shape for array in arrays), strict=True)))
        # As `pack` leaves what it does not use.
        empty = (np.nan if arrays[0].dtype.kind == "f" else -1) if ".answers" in path or ".index" in path else 0
        whole = np.full((len(arrays), *shape), empty, arrays[0].dtype)
        for part, array in zip(whole, arrays, strict=True):
            part[tuple(map(slice, array.shape))] = array
        stacked.append(whole)
    return jax.tree.unflatten(leaves[0][1], stacked)


def _with(batch: Batch, name: str) -> Batch:
    """A batch whose inputs have an array of this name, if of zeros."""
    if getattr(batch.inputs, name) is not None:
        return batch
    zeros = np.zeros(batch.inputs.ids.shape, np.float32 if name == "mix" else np.int32)
    return batch.replace(inputs=batch.inputs.replace(**{name: zeros}))
