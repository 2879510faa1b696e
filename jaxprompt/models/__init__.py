"""Frozen backbones as pure Flax linen modules."""

import logging
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxprompt.models.cache import Cache
from jaxprompt.models.decoder import Decoder, DecoderConfig
from jaxprompt.models.encoder import Encoder, EncoderConfig
from jaxprompt.models.precision import check_precision
from jaxprompt.models.seq2seq import Memory, Seq2Seq, Seq2SeqConfig
from jaxprompt.models.stack import check_remat
from jaxprompt.ops.attention import choose_implementation
from jaxprompt.types import Inputs

logger = logging.getLogger(__name__)

ModelConfig = DecoderConfig | EncoderConfig | Seq2SeqConfig
MODULES = {DecoderConfig: Decoder, EncoderConfig: Encoder, Seq2SeqConfig: Seq2Seq}


def build(
    config: ModelConfig,
    dtype: Any = jnp.float32,
    remat: str = "dots",
    mesh: Mesh | None = None,
    attention: str = "auto",
    matmul_precision: str = "highest",
) -> nn.Module:
    """Returns the module that a config describes; raises InputError for what it cannot have."""
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    # The two sides of an encoder-decoder have heads alike.
    block = config.decoder if isinstance(config, Seq2SeqConfig) else config
    attention, reason = choose_implementation(
        attention, dtype, block.head_dim, block.attention_softcap, block.num_kv_heads, shards=tensor
    )
    if reason:
        logger.info("attention is computed by XLA: %s", reason)
    return MODULES[type(config)](
        config, dtype, check_remat(remat), mesh, attention, matmul_precision=check_precision(matmul_precision)
    )


def init_params(module: nn.Module, key: jax.Array) -> Any:
    """Returns random parameters, boxed with their logical axes; under `jax.eval_shape` only shapes."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return module.init(key, Inputs(ids, ids, ids))["params"]


__all__ = ["Cache", "DecoderConfig", "EncoderConfig", "Memory", "ModelConfig", "Seq2SeqConfig", "build", "init_params"]
