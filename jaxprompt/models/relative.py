"""T5's relative positions (Raffel et al. 2020, arXiv:1910.10683): a learned bias per head and bucket of distance."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class RelativePositions:
    """How distances fall into buckets.

    Attributes:
      buckets: of which half, near 0, are of one distance each, and the others grow with the distance.
      max_distance: from here on there is one bucket.
    """

    buckets: int
    max_distance: int

    def bucket(self, bidirectional: bool) -> Int[np.ndarray, " distances"]:
        """Returns the bucket of each distance (key minus query) from `-max_distance` to `max_distance`."""
        distance = np.arange(-self.max_distance, self.max_distance + 1)
        buckets, first = self.buckets, np.zeros_like(distance)
        if bidirectional:
            buckets //= 2
            first = np.where(distance > 0, buckets, 0)
            distance = np.abs(distance)
        else:
            distance = -np.minimum(distance, 0)
        exact = buckets // 2
        # float32, as in the reference: at the edges of buckets it decides.
        ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
        growing = ratio / np.float32(math.log(self.max_distance / exact)) * np.float32(buckets - exact)
        far = np.minimum(exact + growing.astype(np.int32), buckets - 1)
        return first + np.where(distance < exact, distance, far)

    def bias(
        self,
        table: Float[Array, "buckets heads"],
        queries: Int[Array, "rows seq"],
        keys: Int[Array, "rows kv_seq"],
        bidirectional: bool,
    ) -> Float[Array, "rows heads seq kv_seq"]:
        """Returns what is added to the attention logits, float32; `queries` and `keys` are positions."""
        by_distance = table.astype(jnp.float32)[jnp.asarray(self.bucket(bidirectional))]
        distance = keys[:, None, :] - queries[:, :, None]
        distance = jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance
        return by_distance.T[:, distance].swapaxes(0, 1)
