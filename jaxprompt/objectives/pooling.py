"""One vector per example, of its hidden states: what a head or a similarity is computed from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jaxprompt import options
from jaxprompt.errors import InputError
from jaxprompt.objectives.base import Objective
from jaxprompt.ops.losses import gather_positions
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.values import shown, where
from jaxprompt.types import Batch, Inputs


class PoolOptions(options.Options):
    pool: Literal["mean", "first", "last"] | None = Field(
        None, description="how hidden states become one vector; unset: mean for encoders, last for decoders"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Pooled(Objective):
    """Scores one vector per example. Soft tokens are never pooled.

    Attributes:
      how: mean, first or last; None until a backbone is known.
    """

    how: str | None = None

    def bound(self, backbone: Any, encoder: RowEncoder) -> Objective:
        how = self.how or ("last" if backbone.causal else "mean")
        unseen = encoder.layout.unseen_rows(encoder.vocab_size, how) if backbone.causal else 0
        if unseen:
            raise InputError(
                f"{unseen} soft tokens of template {shown(encoder.template.text)} stand behind all that is pooled "
                f"(objective.pool {how}), where a causal model cannot see them: move {{soft:N}} before the text"
            )
        return dataclasses.replace(self, how=how)

    def lay_out(
        self, trunk: list[int], candidates: Sequence[Sequence[int]], encoder: RowEncoder, number: int | None
    ) -> Encoded:
        text = [at for at, token in enumerate(trunk) if token < encoder.vocab_size]
        if not text:
            raise InputError(f"{where(number)}no token to pool: the text is empty (remove the row)")
        # A mean starts at the first one: what all examples share may be taken out of their rows up to here.
        return encoder.example(trunk, pool_at=text[-1] if self.how == "last" else text[0])

    def at(self, batch: Batch):
        return None if self.how == "mean" else batch.pool_at

    def vectors(self, hidden, batch: Batch, vocab_size: int) -> Float[Array, "rows slots embed"]:
        """The pooled hidden states, fp32, from those at `at(batch)`."""
        if self.how == "mean":
            return pool("mean", hidden, batch.inputs, batch.pool_at, vocab_size)
        return hidden.astype(jnp.float32)


def pool(
    how: str, hidden: Float[Array, "rows seq embed"], inputs: Inputs, pool_at, vocab_size: int
) -> Float[Array, "rows slots embed"]:
    """One fp32 vector per slot: the mean over its real tokens, or the hidden state at `pool_at`."""
    if how != "mean":
        return gather_positions(hidden, pool_at).astype(jnp.float32)
    slots = jnp.arange(1, pool_at.shape[1] + 1)
    member = inputs.segments[:, None, :] == slots[None, :, None]
    member = (member & (inputs.ids < vocab_size)[:, None, :]).astype(jnp.float32)
    total = jnp.einsum("res,rsd->red", member, hidden.astype(jnp.float32), precision="highest")
    return total / jnp.maximum(member.sum(-1, keepdims=True), 1.0)


def linear_head(hidden_size: int, outputs: int) -> dict[str, dict]:
    """A linear head that starts at 0: `weight [outputs, embed]`, `bias [outputs]`."""
    return {"head": {"weight": jnp.zeros((outputs, hidden_size)), "bias": jnp.zeros((outputs,))}}


def apply_head(head: dict[str, jax.Array], vectors: Float[Array, "*batch embed"]) -> Float[Array, "*batch outputs"]:
    """`vectors @ weight.T + bias`."""
    return vectors @ head["weight"].T + head["bias"]
