"""What the model makes of text that no prompt reaches, computed once and read in every batch."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxprompt.text.encoded import Encoded
from jaxprompt.types import Batch


@dataclass(frozen=True, eq=False)
class AheadCache:
    """Of every example what there is ahead of its `source`'s tokens, as `Batch.ahead`, on the host.

    Attributes:
      parts: of all tokens, those of an example side by side.
      starts: where each example's are.
    """

    parts: tuple[Float[np.ndarray, "tokens ..."], ...]
    starts: Int[np.ndarray, " examples"]

    @classmethod
    def empty(
        cls, examples: Iterable[Encoded], shapes: Sequence[tuple[int, ...]], dtype: Any, folder: Path | None
    ) -> "AheadCache":
        """Returns one that is not filled yet.

        Args:
          shapes: of each part, for a token.
          folder: where its files are; None: it is in memory.

        Raises:
          OSError: the disk does not hold them.
        """
        lengths = np.array([len(example.source) for example in examples])
        whole = [(int(lengths.sum()), *shape) for shape in shapes]
        if folder is None:
            parts = [np.zeros(shape, dtype) for shape in whole]
        else:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape in whole]
            files = [_on_disk(folder / str(number), size) for number, size in enumerate(sizes)]
            parts = [file.view(dtype).reshape(shape) for file, shape in zip(files, whole, strict=True)]
        return cls(tuple(parts), np.cumsum(lengths) - lengths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def with_ahead(self, batch: Batch) -> Batch:
        """Returns a batch with what is ahead of its examples."""
        places = self._places(batch)
        return batch.replace(ahead=tuple(part[places] for part in self.parts))

    def fill(self, batch: Batch, ahead: Sequence[np.ndarray]) -> None:
        """Takes what was computed of a batch."""
        there = batch.source.segments > 0
        places = self._places(batch)[there]
        for part, found in zip(self.parts, ahead, strict=True):
            part[places] = found[there]

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
