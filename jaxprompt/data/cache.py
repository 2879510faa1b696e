"""Keys and values of the text ahead of the prompt, computed once and read in every batch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxprompt.text.encoded import Encoded
from jaxprompt.types import Batch


@dataclass(frozen=True, eq=False)
class AheadCache:
    """Of every example the keys and values of its `source`, on the host.

    Attributes:
      keys, values: of all tokens, those of an example side by side.
      starts: where each example's are.
    """

    keys: Float[np.ndarray, "tokens layers kv_heads head_dim"]
    values: Float[np.ndarray, "tokens layers kv_heads head_dim"]
    starts: Int[np.ndarray, " examples"]

    @classmethod
    def empty(
        cls, examples: Iterable[Encoded], shape: tuple[int, int, int], dtype: Any, folder: Path | None
    ) -> "AheadCache":
        """Returns one that is not filled yet.

        Args:
          shape: layers, heads and head size.
          folder: where its files are; None: it is in memory.

        Raises:
          OSError: the disk does not hold them.
        """
        lengths = np.array([len(example.source) for example in examples])
        whole = (int(lengths.sum()), *shape)
        if folder is None:
            keys, values = np.zeros(whole, dtype), np.zeros(whole, dtype)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            size = int(np.prod(whole)) * np.dtype(dtype).itemsize
            keys, values = (_on_disk(folder / name, size).view(dtype).reshape(whole) for name in ("keys", "values"))
        return cls(keys, values, np.cumsum(lengths) - lengths)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def with_ahead(self, batch: Batch) -> Batch:
        """Returns a batch with what is ahead of its examples."""
        places = self._places(batch)
        return batch.replace(ahead=(self.keys[places], self.values[places]))

    def fill(self, batch: Batch, keys: np.ndarray, values: np.ndarray) -> None:
        """Takes what was computed of a batch, `[layers, rows, ahead, kv_heads, head_dim]` each."""
        there = batch.source.segments > 0
        places = self._places(batch)[there]
        self.keys[places], self.values[places] = (np.moveaxis(part, 0, 2)[there] for part in (keys, values))

    def _places(self, batch: Batch) -> Int[np.ndarray, "rows ahead"]:
        """Where each token is; that of padding is any."""
        segments = batch.source.segments
        example = np.take_along_axis(batch.index, np.maximum(segments - 1, 0), axis=1)
        return np.where(segments > 0, self.starts[np.maximum(example, 0)] + batch.source.positions, 0)


def _on_disk(path: Path, size: int) -> np.ndarray:
    """A file as an array of bytes: NumPy knows no bfloat16 in files."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # Room that is missing is an error here. Where an array finds none, the process is killed.
            os.posix_fallocate(file.fileno(), 0, size)
    return np.memmap(path, np.uint8, "r+", shape=(size,))
