"""Where prompts start, for all methods. Initialisation matters more than the choice of method.

Everything returned is fp32, whatever the backbone's dtype.
"""

import re
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt, model_validator

from jaxprompt.errors import InputError
from jaxprompt.machine import compiler
from jaxprompt.methods.base import Start
from jaxprompt.options import Options
from jaxprompt.prompts import load_prompt
from jaxprompt.text.tokens import check_ids, whole_ids
from jaxprompt.text.values import shown


class Init(Options):
    """The options of a start."""

    type: Literal["vocab", "labels", "text", "uniform", "normal", "zero", "file"] = Field(
        "vocab", description="start from sampled vocabulary, label words, a text, random numbers, zero values or a file"
    )
    text: str | None = Field(None, description="the text to start from (type text)")
    path: str | None = Field(
        None, description="a prompt file, run folder or .npy array (type file), or a file of the text (type text)"
    )
    chunks: PositiveInt | None = Field(
        None,
        description="stretches of a long text that are taken, spread over all of it; unset: its beginning (type text)",
    )
    scale: float | None = Field(
        None, ge=0, description="half-width or standard deviation of a random start; unset: the usual one of its type"
    )
    top_k: PositiveInt = Field(5000, description="sample among this many of the most frequent tokens (type vocab)")

    @model_validator(mode="after")
    def _needs(self):
        if self.type == "text" and bool(self.text) == bool(self.path):
            raise ValueError("type 'text' needs text, or the path of a file of it, and not both")
        if self.type == "file" and not self.path:
            raise ValueError("type 'file' needs path")
        return self

    @property
    def words(self) -> str:
        """The text to start from. Raises InputError for a file that cannot be read as text."""
        if self.path is None:
            return self.text or ""
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise InputError(f"method.init.path {self.path!r} cannot be read: {reason} (name a text file)") from None


def soft_rows(init: Init, key: jax.Array, length: int, start: Start) -> Float[Array, "prompt embed"]:
    """Starting rows of a soft prompt. Raises InputError when the start needs something that is not there."""
    backbone = start.backbone
    tokenizer, width = backbone.tokenizer, backbone.soft_size
    table = backbone.word_embedding(backbone.params)
    if init.type == "uniform":
        rows = uniform(key, length, width, 0.5 if init.scale is None else init.scale)
    elif init.type == "normal":
        # Rows as large as words are: a much smaller start is invisible to the first norm, a larger one drowns words.
        scale = jnp.std(table.astype(jnp.float32)) if init.scale is None else init.scale
        rows = normal(key, length, width, scale)
    elif init.type == "vocab":
        rows = vocab(key, length, table, tokenizer, init.top_k)
    elif init.type == "labels":
        rows = labels(key, length, table, tokenizer, start.label_texts, init.top_k)
    elif init.type == "text":
        rows = text(length, table, tokenizer, init.words, chunks=init.chunks)
    elif init.type == "file":
        rows = file_array(init.path, "soft", (length, width))
    else:
        raise InputError(f"method.init.type {init.type!r} is for prefix tuning: choose vocab, text, labels or file")
    return jnp.asarray(rows, jnp.float32)


def prefix_arrays(
    init: Init, key: jax.Array, side: str, shape: tuple[int, int, int, int], start: Start
) -> dict[str, Float[Array, "layers prefix kv_heads head_dim"]]:
    """Starting keys and values, by the names `{side}keys` and `{side}values`; errors as in `soft_rows`.

    Args:
      side: "", or "source_" for the encoder of an encoder-decoder.
    """
    names = (f"{side}keys", f"{side}values")
    if init.type in ("normal", "zero"):
        scale = 0.02 if init.scale is None else init.scale
        arrays = [normal_array(k, shape, scale) for k in jax.random.split(key)]
        if init.type == "zero":
            # With values of 0 the prefix only takes weight away from the text, the least harm a new prefix can do.
            arrays[1] = jnp.zeros(shape)
    elif init.type == "uniform":
        scale = 0.5 if init.scale is None else init.scale
        arrays = [jax.random.uniform(k, shape, minval=-scale, maxval=scale) for k in jax.random.split(key)]
    elif init.type == "file":
        arrays = [file_array(init.path, name, shape) for name in names]
    else:
        ids = _token_ids(init, key, shape[1], start)
        of_text, of_source = compiler.jit(start.backbone.keys_values)(start.backbone.params, jnp.asarray(ids))
        prefix = of_source if side else of_text
        arrays = [prefix.keys, prefix.values]
    return {name: jnp.asarray(array, jnp.float32) for name, array in zip(names, arrays, strict=True)}


def _token_ids(init: Init, key: jax.Array, length: int, start: Start):
    """The real tokens whose keys and values a prefix starts from."""
    tokenizer = start.backbone.tokenizer
    if init.type == "labels" and not start.label_texts:
        raise InputError("method.init.type 'labels' needs label words: set objective.labels")
    if init.type in ("text", "labels"):
        name, words, chunks = "label words", ", ".join(start.label_texts), None
        if init.type == "text":
            name, words, chunks = "method.init.text", init.words, init.chunks
        ids = text_ids(length, tokenizer, words, name, chunks).tolist()
        return check_ids(ids, tokenizer, start.backbone.vocab_size, f"{name}: ")
    ids = jnp.asarray(ordinary_ids(tokenizer, start.backbone.vocab_size)[: init.top_k])
    return jax.random.choice(key, ids, (length,), replace=len(ids) < length)


def file_array(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array `name` of a saved prompt, checked to have `shape`."""
    prompt = load_prompt(path)
    arrays = prompt.arrays
    if name not in arrays:
        raise InputError(
            f"method.init.path {path!r} holds {', '.join(arrays) or 'no arrays'}, not {name!r}: name a prompt of the kind "
            "that this method starts from"
        )
    array = arrays[name]
    if array.shape != shape:
        raise InputError(
            f"method.init.path {path!r}: {name} has shape {array.shape}, this experiment needs {shape}: name a prompt of "
            "that length and model, or change the template or method.length"
        )
    return array


def uniform(key: jax.Array, length: int, width: int, scale: float) -> Float[Array, "prompt embed"]:
    """Uniform in `[-scale, scale]` (Lester et al. 2021 use 0.5)."""
    return jax.random.uniform(key, (length, width), minval=-scale, maxval=scale)


def normal(key: jax.Array, length: int, width: int, scale: float | jax.Array) -> Float[Array, "prompt embed"]:
    """Normal with standard deviation `scale`."""
    return normal_array(key, (length, width), scale)


def normal_array(key: jax.Array, shape: tuple[int, ...], scale: float | jax.Array) -> Float[Array, "..."]:
    """Normal with standard deviation `scale`."""
    return scale * jax.random.normal(key, shape)


def ordinary_ids(tokenizer, vocab_size: int) -> np.ndarray:
    """Token ids that stand for text: no special tokens, no unused slots, in the tokenizer's order (frequent first)."""
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}
    tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), vocab_size))))
    unused = re.compile(r"^(\[unused\d+\]|<unused\d+>|<extra_id_\d+>|<0x[0-9A-F]{2}>)$")
    return np.array([i for i, t in enumerate(tokens) if t is not None and i not in special and not unused.match(t)])


def vocab(key: jax.Array, length: int, table, tokenizer, top_k: int) -> Float[Array, "prompt embed"]:
    """Embeddings of `length` tokens sampled without replacement from the `top_k` most frequent ones."""
    ids = ordinary_ids(tokenizer, table.shape[0])[:top_k]
    chosen = jax.random.choice(key, jnp.asarray(ids), (length,), replace=len(ids) < length)
    return table[chosen].astype(jnp.float32)


def sampled_words(key: jax.Array, count: int, start: Start, top_k: int) -> Float[Array, "words embed"]:
    """As `vocab`, of a backbone."""
    return vocab(key, count, start.backbone.word_embedding(start.backbone.params), start.backbone.tokenizer, top_k)


def text(
    length: int, table, tokenizer, words: str, name: str = "method.init.text", chunks: int | None = None
) -> Float[Array, "prompt embed"]:
    """Embeddings of the tokens of `words`, repeated or cut to `length` rows."""
    ids = check_ids(text_ids(length, tokenizer, words, name, chunks).tolist(), tokenizer, table.shape[0], f"{name}: ")
    return table[jnp.asarray(ids)].astype(jnp.float32)


def text_ids(
    length: int, tokenizer, words: str, name: str = "method.init.text", chunks: int | None = None
) -> np.ndarray:
    """Token ids of `words`, repeated or cut to `length`; of a longer text, so many stretches spread over all of it."""
    ids = whole_ids(tokenizer, words, name, special_tokens=False)
    if not ids:
        raise InputError(f"{name} {shown(words)} has no tokens: give a text to start the prompt from")
    ids = np.asarray(ids, np.int32)
    if chunks is None or len(ids) <= length:
        return np.resize(ids, length)
    # As equal as they can be, each in the middle of an equal part of the text.
    ends = np.linspace(0, length, min(chunks, length) + 1).round().astype(int)
    edges = np.linspace(0, len(ids), len(ends))
    stretches = []
    for size, first, last in zip(np.diff(ends), edges[:-1], edges[1:], strict=True):
        begin = int((first + last - size) / 2)
        stretches.append(ids[begin : begin + size])
    return np.concatenate(stretches)


def labels(key: jax.Array, length: int, table, tokenizer, names, top_k: int) -> Float[Array, "prompt embed"]:
    """One row per label word (the mean over its tokens), then sampled vocabulary (Lester et al. 2021, class label)."""
    if not names:
        raise InputError("method.init.type 'labels' needs label words: set objective.labels, or choose 'vocab'")
    ids = [
        check_ids(text_tokens(tokenizer, name), tokenizer, table.shape[0], f"label {shown(name)}: ") for name in names
    ]
    rows = [table[jnp.asarray(tokens)].astype(jnp.float32).mean(axis=0) for tokens in ids]
    rows = jnp.stack(rows[:length])
    if len(rows) < length:
        rows = jnp.concatenate([rows, vocab(key, length - len(rows), table, tokenizer, top_k)])
    return rows


def text_tokens(tokenizer, name: str) -> list[int]:
    """The ids of a label's text, or of its unknown token when nothing else is left of it."""
    ids = whole_ids(tokenizer, name.replace("_", " "), f"label {shown(name)}", special_tokens=False)
    return ids or [tokenizer.unk_token_id or 0]
