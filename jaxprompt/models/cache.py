"""The keys and values of a generation in progress."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.ops.attention import KeysValues
from jaxprompt.ops.views import View
from jaxprompt.types import Inputs


class Cache(struct.PyTreeNode):
    """What the next tokens of each row see of those before them.

    Attributes:
      keys, values: `[layers, rows, length, kv_heads, head_dim]`.
      index: how many slots of each row hold real tokens; the next token goes there.
      late: which slots hold those of late soft rows; None: none do.
    """

    keys: Float[Array, "layers rows length kv_heads head_dim"]
    values: Float[Array, "layers rows length kv_heads head_dim"]
    index: Int[Array, " rows"]
    late: Bool[Array, "rows length"] | None = None

    def slots(self, seq: int) -> Int[Array, "rows seq"]:
        """Where the next `seq` tokens of each row go."""
        return self.index[:, None] + jnp.arange(seq)

    def view(self, seq: int) -> View:
        """What the next `seq` tokens of each row see: every slot up to their own."""
        return View(jnp.arange(self.keys.shape[2]) <= self.slots(seq)[:, :, None])

    def take(self, rows: Int[Array, " new_rows"]) -> "Cache":
        """The cache of the rows of these numbers."""
        late = None if self.late is None else self.late[rows]
        return Cache(self.keys[:, rows], self.values[:, rows], self.index[rows], late)

    def mark(self, late: Bool[Array, "rows seq"]) -> "Cache":
        """The cache that knows which of the next tokens of each row are those of late soft rows."""
        known = jnp.zeros((self.index.shape[0], self.keys.shape[2]), bool) if self.late is None else self.late
        row, slots = jnp.arange(self.index.shape[0])[:, None], self.slots(late.shape[1])
        return self.replace(late=known.at[row, slots].set(late, mode="drop"))

    def write(self, layer: Any, keys_values: KeysValues) -> "Cache":
        """The cache with a layer's new keys and values `[rows, seq, kv_heads, head_dim]` in it, not yet counted."""
        row, slots = jnp.arange(self.index.shape[0])[:, None], self.slots(keys_values[0].shape[1])
        # A slot past the end belongs to a row that is finished: dropped, not clamped onto the last one.
        keys, values = (
            old.at[layer, row, slots].set(new, mode="drop")
            for old, new in zip((self.keys, self.values), keys_values, strict=True)
        )
        return self.replace(keys=keys, values=values)

    def advance(self, inputs: Inputs) -> "Cache":
        """The cache that counts the tokens of `inputs`, but for those of segment 0."""
        index = self.index + (inputs.segments != 0).sum(1)
        return self.replace(index=index.astype(self.index.dtype))
