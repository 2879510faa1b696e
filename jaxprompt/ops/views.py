"""Which tokens see which. Suffixes of names are as in `ops.attention`."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxprompt.types import Inputs


class View(struct.PyTreeNode):
    """What each token of the rows sees.

    Attributes:
      row: the keys of its own row (or of the cache, or of the encoder), and what stands ahead of them.
      prefix: the keys of the prefix; None: all of them.
      row_bias, prefix_bias: added to the attention logits; None: nothing. One row stands for all.
      causal: whether the tokens are those of the row, in order, and none sees a later one.
    """

    row: Bool[Array, "rows seq kv_seq"]
    prefix: Bool[Array, "rows seq prefix"] | None = None
    row_bias: Float[Array, "rows heads seq kv_seq"] | None = None
    prefix_bias: Float[Array, "rows heads seq prefix"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)

    def upto(self, start: int, stop: int, ahead: int = 0) -> "View":
        """What the tokens from `start` to `stop` see of those before `stop` and of as many others `ahead` of them."""
        queries, keys = slice(start, stop), slice(ahead + stop)
        return View(
            self.row[:, queries, keys],
            None if self.prefix is None else self.prefix[:, queries],
            None if self.row_bias is None else self.row_bias[:, :, queries, keys],
            None if self.prefix_bias is None else self.prefix_bias[:, :, queries],
        )

    def pick(self, at: Int[Array, "rows n"] | None) -> "View":
        """What the tokens `at` these positions see; None: all tokens."""
        if at is None:
            return self

        def seen(mask):
            return None if mask is None else jnp.take_along_axis(mask, at[:, :, None], axis=1)

        def added(bias):
            if bias is None:
                return None
            bias = jnp.broadcast_to(bias, (at.shape[0], *bias.shape[1:]))
            return jnp.take_along_axis(bias, at[:, None, :, None], axis=2)

        return View(seen(self.row), seen(self.prefix), added(self.row_bias), added(self.prefix_bias))


class Joined(struct.PyTreeNode):
    """A prompt and the rows that see it, laid end to end in arrays `[1, prompt + rows * seq + padding, ...]`.

    What works token by token then reads the weights once for both, and a prompt of a few tokens costs no pass of its
    own. Attention takes the two apart.

    Attributes:
      view: what the prompt's tokens see of each other and of a prefix before them.
      length: tokens of the prompt.
      rows: how many rows there are.
      padding: how many tokens behind the rows are nothing, see `joined_padding`.
    """

    view: View
    length: int = struct.field(pytree_node=False)
    rows: int = struct.field(pytree_node=False)
    padding: int = struct.field(pytree_node=False)

    def join(self, prompt: Shaped[Array, "1 prompt *rest"], rows: Shaped[Array, "rows seq *rest"]):
        """Lays both end to end."""
        both = jnp.concatenate([prompt, rows.reshape(1, -1, *rows.shape[2:])], axis=1)
        return jnp.pad(both, ((0, 0), (0, self.padding)) + ((0, 0),) * (both.ndim - 2)) if self.padding else both

    def split(self, both: Shaped[Array, "1 tokens *rest"]):
        """Takes the two apart."""
        prompt, rows, _ = jnp.split(both, [self.length, both.shape[1] - self.padding], axis=1)
        return prompt, rows.reshape(self.rows, -1, *both.shape[2:])


def joined_padding(tokens: int) -> int:
    """Returns how many tokens to lay behind so many: up to a multiple of 8, which tensor cores want in 16 bits.

    None on a CPU. Elsewhere the compiler would pad the operands of every product, and copy them to do so.
    """
    return 0 if jax.default_backend() == "cpu" else -tokens % 8


def visibility(inputs: Inputs, causal: bool) -> Bool[Array, "rows seq seq"]:
    """Returns which token (last axis) each token (middle axis) of its row sees, the prefix apart.

    Padding is segment 0 and sees padding, so that no token is left with nothing to attend to.
    """
    seen = inputs.segments[:, :, None] == inputs.segments[:, None, :]
    if inputs.branches is not None:
        key_branch = inputs.branches[:, None, :]
        seen &= (key_branch == 0) | (key_branch == inputs.branches[:, :, None])
    if causal:
        places = jnp.arange(inputs.ids.shape[1])  # of which the compiler keeps no square of integers
        seen &= places[:, None] >= places
    return seen


def windowed(
    view: View,
    window: int,
    queries: Int[Array, "rows seq"],
    keys: Int[Array, "rows kv_seq"],
    prefix: Int[Array, " prefix"],
) -> View:
    """Returns a view that ends `window` positions before each token, itself counted.

    Args:
      queries, keys: positions of the tokens and of what they see.
      prefix: positions of the keys of the prefix.
    """
    row = view.row & (keys[:, None, :] > queries[:, :, None] - window)
    behind = prefix > queries[:, :, None] - window if prefix.size else None
    return view.replace(row=row, prefix=behind)


def owned(view: View, owners: Int[Array, "rows seq"] | None, prefix: Int[Array, " prefix"] | None) -> View:
    """Returns a view of the keys of the prefix that have the same owner as each token; without owners, of all."""
    if owners is None or prefix is None:
        return view
    own = owners[:, :, None] == prefix
    return view.replace(prefix=own if view.prefix is None else view.prefix & own)
