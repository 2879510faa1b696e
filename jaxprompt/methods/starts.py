"""Starting values of a soft prompt. Initialisation matters more than the choice of method.

Every initializer returns fp32 rows `[prompt, embed]`, whatever the backbone's dtype.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.errors import InputError


def uniform(key: jax.Array, length: int, width: int, scale: float) -> Float[Array, "prompt embed"]:
    """Uniform in `[-scale, scale]` (Lester et al. 2021 use 0.5)."""
    return jax.random.uniform(key, (length, width), minval=-scale, maxval=scale)


def normal(key: jax.Array, length: int, width: int, scale: float) -> Float[Array, "prompt embed"]:
    """Normal with standard deviation `scale`."""
    return scale * jax.random.normal(key, (length, width))


def ordinary_ids(tokenizer, vocab_size: int) -> np.ndarray:
    """Token ids that stand for text: no special tokens, no unused slots, in the tokenizer's order (frequent first)."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), vocab_size))))
    unused = re.compile(r"^(\[unused\d+\]|<unused\d+>|<extra_id_\d+>|<0x[0-9A-F]{2}>)$")
    return np.array([i for i, t in enumerate(tokens) if t is not None and i not in special and not unused.match(t)])


def vocab(key: jax.Array, length: int, table, tokenizer, top_k: int) -> Float[Array, "prompt embed"]:
    """Embeddings of `length` tokens sampled without replacement from the `top_k` most frequent ones."""
    ids = ordinary_ids(tokenizer, table.shape[0])[:top_k]
    chosen = jax.random.choice(key, jnp.asarray(ids), (length,), replace=len(ids) < length)
    return table[chosen].astype(jnp.float32)


def text(length: int, table, tokenizer, words: str, name: str = "method.init.text") -> Float[Array, "prompt embed"]:
    """Embeddings of the tokens of `words`, repeated or cut to `length` rows."""
    ids = text_ids(length, tokenizer, words, name)
    return table[jnp.asarray(ids)].astype(jnp.float32)


def text_ids(length: int, tokenizer, words: str, name: str = "method.init.text") -> np.ndarray:
    """Token ids of `words`, repeated or cut to `length`."""
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"{name} {words!r} has no tokens: give a text to start the prompt from")
    return np.resize(np.asarray(ids, np.int32), length)


def labels(key: jax.Array, length: int, table, tokenizer, names, top_k: int) -> Float[Array, "prompt embed"]:
    """One row per label word (the mean over its tokens), then sampled vocabulary (Lester et al. 2021, class label)."""
    if not names:
        raise InputError("method.init.type 'labels' needs label words: set objective.labels, or choose 'vocab'")
    rows = [table[jnp.asarray(text_tokens(tokenizer, name))].astype(jnp.float32).mean(axis=0) for name in names]
    rows = jnp.stack(rows[:length])
    if len(rows) < length:
        rows = jnp.concatenate([rows, vocab(key, length - len(rows), table, tokenizer, top_k)])
    return rows


def text_tokens(tokenizer, name: str) -> list[int]:
    """The ids of a label's text, or of its unknown token when nothing else is left of it."""
    return tokenizer(name.replace("_", " "), add_special_tokens=False)["input_ids"] or [tokenizer.unk_token_id or 0]
