"""Soft prompt tuning (Lester et al. 2021): the rows of a small embedding table are learned."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.methods import starts
from jaxprompt.methods.base import Conditioning


@dataclass(frozen=True)
class SoftPrompt:
    """Learns `{"soft": [prompt, embed]}`; the template says where the rows stand.

    Attributes:
      length: rows of the table, the sum of the template's soft slots.
      init_config: the `method.init` section of the config.
    """

    length: int
    init_config: object
    name: str = "soft"

    def init(self, key: jax.Array, backbone, context) -> dict:
        """Starting rows, fp32. Raises InputError when the start needs something that is not there."""
        init, tokenizer = self.init_config, backbone.tokenizer
        width = backbone.soft_size
        table = backbone.word_embedding(backbone.params)
        if init.type == "uniform":
            rows = starts.uniform(key, self.length, width, 0.5 if init.scale is None else init.scale)
        elif init.type == "normal":
            # Rows as large as words are: a much smaller start is invisible to the first norm, a larger one drowns words.
            scale = float(jnp.std(table.astype(jnp.float32))) if init.scale is None else init.scale
            rows = starts.normal(key, self.length, width, scale)
        elif init.type == "vocab":
            rows = starts.vocab(key, self.length, table, tokenizer, init.top_k)
        elif init.type == "labels":
            rows = starts.labels(key, self.length, table, tokenizer, context.label_texts, init.top_k)
        elif init.type == "text":
            rows = starts.text(self.length, table, tokenizer, init.text)
        elif init.type == "file":
            rows = file_rows(init.path, "soft", (self.length, width))
        else:
            raise InputError(f"method.init.type {init.type!r} is for prefix tuning: choose vocab, text, labels or file")
        return {"soft": jnp.asarray(rows, jnp.float32)}

    def apply(self, trainable: dict) -> Conditioning:
        return Conditioning(soft=trainable["soft"])


def file_rows(path: str, name: str, shape: tuple[int, ...]):
    """The array `name` of a saved prompt, checked to have `shape`."""
    from jaxprompt.prompts import load_prompt  # prompt.py knows the methods; only this start needs files

    prompt = load_prompt(path)
    if name not in prompt.arrays:
        raise InputError(f"method.init.path {path!r} holds {prompt.method!r} arrays, not {name!r}")
    array = prompt.arrays[name]
    if array.shape != shape:
        raise InputError(f"method.init.path {path!r}: {name} has shape {array.shape}, this experiment needs {shape}")
    if not np.isfinite(array).all():
        raise InputError(f"method.init.path {path!r}: {name} holds numbers that are not finite: name another prompt")
    return array
