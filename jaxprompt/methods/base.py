"""What a method is: how the trainable parameters become what the backbone consumes."""

from typing import Protocol

import jax
from flax import struct
from jaxtyping import Array, Float

from jaxprompt.types import Prefix


class Conditioning(struct.PyTreeNode):
    """What a backbone is conditioned on.

    Attributes:
      soft: the soft-token table, fp32; None when the method has none.
      prefix: learned keys and values that come before everything else; None when the method has none. Of an
        encoder-decoder, the decoder's.
      source_prefix: the encoder's, of an encoder-decoder.
    """

    soft: Float[Array, "prompt embed"] | None = None
    prefix: Prefix | None = None
    source_prefix: Prefix | None = None


class Method(Protocol):
    """A way to condition a frozen backbone. Implementations are frozen dataclasses."""

    name: str

    def init(self, key: jax.Array, backbone, context) -> dict:
        """Returns the trainable pytree, fp32. `context` says what labels and tokenizer the start may use."""
        ...

    def apply(self, trainable: dict) -> Conditioning:
        """Turns the trainable pytree into what the backbone consumes. Pure and differentiable."""
        ...
