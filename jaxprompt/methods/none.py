"""No learned prompt: a fixed hard prompt that is scored, or a head trained alone."""

from dataclasses import dataclass

import jax

from jaxprompt.methods.base import Conditioning


@dataclass(frozen=True)
class NoPrompt:
    """Conditions the backbone on nothing: the baseline of every other method."""

    name: str = "none"

    def init(self, key: jax.Array, backbone, context) -> dict:
        return {}

    def apply(self, trainable: dict) -> Conditioning:
        return Conditioning()
