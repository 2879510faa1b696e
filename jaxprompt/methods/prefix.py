"""Prefix tuning (Li and Liang 2021; P-tuning v2, Liu et al. 2022): keys and values of every layer are learned."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxprompt.errors import InputError
from jaxprompt.methods import starts
from jaxprompt.methods.base import Conditioning
from jaxprompt.methods.soft import file_rows
from jaxprompt.types import Prefix


@dataclass(frozen=True)
class PrefixTuning:
    """Learns `{"keys", "values"}`, both `[layers, prefix, kv_heads, head_dim]`, directly, with no reparametrisation.

    In a decoder the text starts at position `length`, as in PEFT. In an encoder the prefix takes no position, so that
    a prefix with no effect leaves the model as it was. An encoder-decoder gets one on either side: beside the
    decoder's it learns `{"source_keys", "source_values"}`.

    Attributes:
      length: number of keys per layer.
      encoder: whether the backbone is an encoder alone.
      init_config: the `method.init` section of the config.
    """

    length: int
    encoder: bool
    init_config: object
    name: str = "prefix"

    def init(self, key: jax.Array, backbone, context) -> dict:
        """Starting keys and values, fp32. Raises InputError when the start needs something that is not there."""
        sides = {"": backbone.prefix_shape}
        if backbone.seq2seq:
            sides["source_"] = backbone.source_prefix_shape
        trainable = {}
        for side, (name, (layers, heads, dim)) in enumerate(sides.items()):
            shape = (layers, self.length, heads, dim)
            keys, values = self._start(jax.random.fold_in(key, side) if side else key, name, shape, backbone, context)
            trainable |= {
                f"{name}keys": jnp.asarray(keys, jnp.float32),
                f"{name}values": jnp.asarray(values, jnp.float32),
            }
        return trainable

    def _start(self, key, side: str, shape, backbone, context):
        """Starting keys and values of one side."""
        init = self.init_config
        if init.type in ("normal", "zero"):
            scale = 0.02 if init.scale is None else init.scale
            keys, values = (scale * jax.random.normal(k, shape) for k in jax.random.split(key))
            # With values of 0 the prefix only takes weight away from the text, the least harm a new prefix can do.
            values = jnp.zeros(shape) if init.type == "zero" else values
        elif init.type == "uniform":
            scale = 0.5 if init.scale is None else init.scale
            keys, values = (jax.random.uniform(k, shape, minval=-scale, maxval=scale) for k in jax.random.split(key))
        elif init.type == "file":
            keys, values = (file_rows(init.path, side + name, shape) for name in ("keys", "values"))
        else:
            ids = self._token_ids(key, backbone, context)
            prefix = jax.jit(backbone.keys_values)(backbone.params, jnp.asarray(ids))
            keys, values = prefix.keys, prefix.values
        return keys, values

    def _token_ids(self, key, backbone, context):
        """The real tokens whose keys and values the prefix starts from."""
        init, tokenizer = self.init_config, backbone.tokenizer
        if init.type == "text":
            return starts.text_ids(self.length, tokenizer, init.text)
        if init.type == "labels":
            if not context.label_texts:
                raise InputError("method.init.type 'labels' needs label words: set objective.labels")
            return starts.text_ids(self.length, tokenizer, ", ".join(context.label_texts))
        ids = jnp.asarray(starts.ordinary_ids(tokenizer, backbone.vocab_size)[: init.top_k])
        return jax.random.choice(key, ids, (self.length,), replace=len(ids) < self.length)

    def apply(self, trainable: dict) -> Conditioning:
        prefix = Prefix(trainable["keys"], trainable["values"], length=0 if self.encoder else self.length)
        if "source_keys" not in trainable:
            return Conditioning(prefix=prefix)
        return Conditioning(
            prefix=prefix, source_prefix=Prefix(trainable["source_keys"], trainable["source_values"], length=0)
        )
