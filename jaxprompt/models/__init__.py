"""Frozen backbones as pure Flax linen modules."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxprompt.models.cache import Cache
from jaxprompt.models.decoder import Decoder, DecoderConfig
from jaxprompt.models.encoder import Encoder, EncoderConfig
from jaxprompt.models.seq2seq import Memory, Seq2Seq, Seq2SeqConfig
from jaxprompt.models.stack import check_remat
from jaxprompt.ops.attention import check_implementation
from jaxprompt.types import Inputs

ModelConfig = DecoderConfig | EncoderConfig | Seq2SeqConfig
MODULES = {DecoderConfig: Decoder, EncoderConfig: Encoder, Seq2SeqConfig: Seq2Seq}


def build(
    config: ModelConfig,
    dtype: Any = jnp.float32,
    remat: str = "dots",
    mesh: Mesh | None = None,
    attention: str = "xla",
) -> nn.Module:
    """Returns the module that a config describes; raises InputError for `remat` or `attention` that it cannot have."""
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    for block in (config.encoder, config.decoder) if isinstance(config, Seq2SeqConfig) else (config,):
        check_implementation(
            attention, dtype, block.head_dim, block.attention_softcap, block.num_kv_heads, shards=tensor
        )
    return MODULES[type(config)](config, dtype=dtype, remat=check_remat(remat), mesh=mesh, attention=attention)


def init_params(module: nn.Module, key: jax.Array) -> Any:
    """Returns random parameters, boxed with their logical axes; under `jax.eval_shape` only shapes."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return module.init(key, Inputs(ids, ids, ids))["params"]


__all__ = ["Cache", "DecoderConfig", "EncoderConfig", "Memory", "ModelConfig", "Seq2SeqConfig", "build", "init_params"]
