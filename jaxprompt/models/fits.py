"""Whether a model has a place for what a prompt holds for its layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.models.block import BlockConfig
from jaxprompt.models.seq2seq import Seq2SeqConfig
from jaxprompt.types import Gated


def attentions(config: Any) -> dict[str, BlockConfig]:
    """The layers of a model, by the paths of the parameters of their attention to themselves."""
    if isinstance(config, Seq2SeqConfig):
        return {"encoder/layers/attention": config.encoder, "decoder/layers/attention": config.decoder}
    return {"layers/attention": config}


def check_gated(gated: Mapping[str, Gated] | None, config: Any, ref: str) -> None:
    """Raises InputError for rows that the layers of a model, called `ref`, cannot see."""
    known = attentions(config)
    for path, part in (gated or {}).items():
        if path not in known:
            raise InputError(
                f"the prompt has rows for {path!r}, which {ref!r} has not: use the backbone it was learned for"
            )
        block, (layers, _, width), gates = known[path], np.shape(part.rows), np.shape(part.gate)
        if layers > block.num_layers or (width, *gates) != (block.hidden_size, layers, block.num_heads):
            raise InputError(
                f"the prompt's rows and gates for {path!r} are {list(np.shape(part.rows))} and {list(gates)}, {ref!r} has "
                f"{block.num_layers} layers of width {block.hidden_size} and {block.num_heads} heads: use the backbone it "
                "was learned for"
            )


def check_late(layer: int | None, config: Any, ref: str) -> None:
    """Raises InputError where a model, called `ref`, has no place for soft rows ahead of a layer."""
    if layer is None:
        return
    layers = min(block.num_layers for block in attentions(config).values())
    if layer >= layers:
        raise InputError(
            f"soft rows enter ahead of layer {layer}, {ref!r} has {layers} layers from 0 on: lower method.layer"
        )
    if config.soft_size != config.hidden_size:
        raise InputError(
            f"soft rows enter ahead of layer {layer}, where hidden states of {ref!r} are {config.hidden_size} wide and not "
            f"{config.soft_size} as words are: choose another method than late"
        )
