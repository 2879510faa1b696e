"""Text from a decoder or an encoder-decoder, with or without a learned prompt, in batches; the prompt computed once."""

import dataclasses
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.backbone.padded import prompt_parts
from jaxprompt.data.sources import Source
from jaxprompt.errors import InputError, not_finite, within_memory
from jaxprompt.experiment.build import context_encoder
from jaxprompt.inference.decode import Search, decode
from jaxprompt.machine import compiler
from jaxprompt.prompts import Prompt
from jaxprompt.text.layout import split_sides
from jaxprompt.text.tokens import text_tokenizer, whole_ids
from jaxprompt.types import Inputs, Prefix, prefix_length

# Contexts are padded to a multiple of this, so that texts of similar length share one compiled program.
LENGTH_MULTIPLE = 32
# Per option: its kind, whether a value is possible, and what it must be.
_AT_LEAST_ONE = (numbers.Integral, lambda value: value >= 1, "a whole number, at least 1")
_OPTIONS = {
    "max_new_tokens": _AT_LEAST_ONE,
    "temperature": (numbers.Real, lambda value: 0 <= value < math.inf, "a number, 0 or more"),
    "top_k": _AT_LEAST_ONE,
    "top_p": (numbers.Real, lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "seed": (numbers.Integral, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
    "batch_size": _AT_LEAST_ONE,
    "num_beams": _AT_LEAST_ONE,
    "length_penalty": (numbers.Real, math.isfinite, "a finite number"),
    "early_stopping": (bool, lambda value: True, "true or false"),
}


def generate(
    backbone,
    texts: Sequence[str | dict],
    prompt: Prompt | None = None,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> list[str]:
    """Continues each text; an encoder-decoder reads it and writes an answer.

    Of a model's generation_config.json the tokens count that start, end or must begin or end a text; its other
    settings (beams, lengths, penalties) are this function's arguments, with these defaults.

    A text that a model must begin with a certain token (BART's forced_bos_token_id) begins with it, and
    `max_new_tokens` and the length that `length_penalty` divides by count it, as in transformers.

    Args:
      texts: plain texts; or, under a prompt whose template has fields, rows `{field: value}` (a plain text fills the
        template's only field), such as `data.sources.open_source` has.
      prompt: a learned prompt. Its template lays out the context; without one the prompt comes before the text.
      max_new_tokens: stop after this many tokens, or at the end-of-sequence token.
      temperature: 0 takes the most likely token; otherwise logits are divided by it and sampled.
      top_k: with a temperature, sample among this many most likely tokens.
      top_p: with a temperature, sample among the fewest most likely tokens whose probabilities sum to at least this.
      seed: of the sampling, which also depends on `batch_size`.
      batch_size: texts decoded at a time.
      num_beams: above 1, the width of a beam search.
      length_penalty: beams are compared by log-probability / length ** length_penalty: above 0 favours long texts.
      early_stopping: end as soon as `num_beams` texts are finished, instead of when none can improve on them.

    Returns:
      The continuations, without the texts.

    Raises:
      InputError: an encoder, a prompt of another backbone, an impossible option, a text that is none, is too long or
        has tokens that the model lacks, or values that are not finite (a model that overflows float16).
    """
    if not (backbone.causal or backbone.seq2seq):
        raise InputError(f"{backbone.ref!r} is an encoder: generation needs a decoder such as GPT-2, Llama or T5")
    given = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed,
        "batch_size": batch_size, "num_beams": num_beams, "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }  # fmt: skip
    options = {name: _option(name, value) for name, value in given.items()}
    seed, batch_size = options.pop("seed"), options.pop("batch_size")
    eos = backbone.tokenizer.eos_token_id
    search = Search(
        eos=tuple(dict.fromkeys([*([] if eos is None else [eos]), *backbone.eos_ids])),
        forced_eos=backbone.forced_eos_id,
        **options,
    )
    _check_search(search, backbone.vocab_size)
    soft, prefix, source_prefix = None, None, None
    if prompt is not None:
        if not isinstance(prompt, Prompt):
            raise InputError(f"prompt is a {type(prompt).__name__}: give a jaxprompt.Prompt, as load_prompt reads one")
        prompt.check(backbone)
        soft, prefix, source_prefix = jax.tree.map(jnp.asarray, prompt_parts(backbone, prompt))
    given = texts
    with naming_source(given):
        texts = _listed(given)
    if not texts:
        return []

    encoder = None if prompt is None or not prompt.info.get("template") else context_encoder(backbone, prompt)
    with naming_source(given):
        hoisted, contexts, sources = _contexts(backbone, texts, prompt, encoder)
    if encoder is not None:
        # It may have learned to end with another token than the tokenizer's.
        ends = encoder.layout.target_tail[:1]
        search = dataclasses.replace(search, eos=tuple(dict.fromkeys([*search.eos, *ends])))
    if sources is not None:
        search, contexts = _forced_first(backbone, encoder, search, contexts)
    start = prefix_length(prefix) + len(hoisted)
    longest, longest_source = max(map(len, contexts)), max(map(len, sources or [[]]))
    with naming_source(given):
        _check_lengths(backbone, search, start, contexts, sources)
    rows = min(batch_size, len(contexts))
    _check_memory(backbone, search, rows, longest + search.max_new_tokens)

    room = backbone.max_positions - start - search.max_new_tokens
    conditioning = {"soft": soft, "prefix": _prefix(backbone, hoisted, soft, prefix), "source_prefix": source_prefix}
    written = []
    for first in range(0, len(contexts), batch_size):
        here = slice(first, first + batch_size)
        ids, lengths = _padded(contexts[here], rows, longest, room)
        if sources is not None:
            source, source_lengths = _padded(sources[here], rows, longest_source, backbone.max_positions)
            places = np.broadcast_to(np.arange(source.shape[1], dtype=np.int32), source.shape)
            conditioning["source"] = Inputs(source, places, (places < source_lengths[:, None]).astype(np.int32))
        key = jax.random.fold_in(jax.random.key(seed), first)
        with within_memory("lower batch_size, num_beams or max_new_tokens"):
            tokens, scores = map(np.asarray, decode(backbone, search, ids, lengths, key=key, **conditioning))
        broken = np.flatnonzero(np.isnan(scores[: len(contexts[here])]))
        if broken.size:
            raise not_finite(f"text {first + broken[0] + 1}", backbone.dtype)
        written += [_text(backbone, c, t, search) for c, t in zip(contexts[here], tokens, strict=False)]
    return written


def _padded(rows: list[list[int]], count: int, longest: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows of ids and their lengths, padded on the right; the last row again where there are fewer.

    A copy ends when its original does (unless it is sampled), where an empty row would be continued to the last token.
    """
    length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, room)
    ids, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
    for number in range(count):
        row = rows[min(number, len(rows) - 1)]
        ids[number, : len(row)], lengths[number] = row, len(row)
    return ids, lengths


def _option(name: str, value):
    """An option as a plain Python value; raises InputError for one of another kind or out of range."""
    if value is None and name in ("top_k", "top_p"):
        return None
    kind, fine, need = _OPTIONS[name]
    # A bool is an int to Python.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not fine(value):
        raise InputError(f"{name} is {value if isinstance(value, str) else _shown(value)}: it must be {need}")
    return {numbers.Integral: int, numbers.Real: float, bool: bool}[kind](value)


def _check_search(search: Search, vocab_size: int) -> None:
    """Raises InputError for options that do not go together, or do not go with so many tokens."""
    if search.num_beams > 1 and search.temperature:
        raise InputError(f"temperature is {search.temperature}: it must be 0 in a beam search")
    for name, used, need in (
        ("top_k", search.temperature > 0, "temperature above 0"),
        ("top_p", search.temperature > 0, "temperature above 0"),
        ("length_penalty", search.num_beams > 1, "num_beams above 1"),
        ("early_stopping", search.num_beams > 1, "num_beams above 1"),
    ):
        value = getattr(search, name)
        if not used and value != getattr(Search, name):
            raise InputError(f"{name} is {value}, which does nothing without {need}: set that, or leave {name} out")
    # Candidates are numbered in int32.
    most = min(vocab_size, (2**31 - 1) // vocab_size)
    if search.num_beams > most:
        raise InputError(f"num_beams is {search.num_beams}: with a vocabulary of {vocab_size} it is at most {most}")
    if abs(search.length_penalty) * math.log10(search.max_new_tokens) > 30:
        raise InputError(
            f"length_penalty is {search.length_penalty}: {search.max_new_tokens} tokens to that power are out of "
            "float32's range; take one nearer to 0"
        )


def _check_lengths(backbone, search: Search, start: int, contexts, sources) -> None:
    """Raises InputError for the longest context or source that does not fit the positions, or a source of nothing."""
    number = max(range(len(contexts)), key=lambda at: len(contexts[at]))
    length = start + len(contexts[number])
    if length + search.max_new_tokens > backbone.max_positions:
        raise InputError(
            f"text {number + 1}: a context of {length} tokens and {search.max_new_tokens} new ones do not fit the "
            f"backbone's {backbone.max_positions} positions: shorten the text or max_new_tokens"
        )
    for number, source in enumerate(sources or (), 1):
        if len(source) > backbone.max_positions:
            raise InputError(
                f"text {number}: a source of {len(source)} tokens, prompt included, does not fit the backbone's "
                f"{backbone.max_positions} positions: shorten the text"
            )
        if not source:
            raise InputError(f"text {number} leaves the encoder nothing to read: give at least one character")


def _check_memory(backbone, search: Search, rows: int, length: int) -> None:
    """Raises InputError for a search whose cache and scores alone exceed all memory, before the system ends us."""
    rows *= search.num_beams
    cache = jax.eval_shape(lambda: backbone.empty_cache(rows, length))
    need = cache.keys.size * cache.keys.dtype.itemsize * 2 + rows * backbone.vocab_size * 4
    device = backbone.mesh.local_devices[0]
    room = (device.memory_stats() or {}).get("bytes_limit", math.inf) * backbone.mesh.size
    if device.platform == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > room:
        raise InputError(
            f"batch_size {rows // search.num_beams}, num_beams {search.num_beams} and {length} tokens need "
            f"{need / 1e9:.0f} GB, there are {room / 1e9:.0f}: lower batch_size, num_beams or max_new_tokens"
        )


def _forced_first(backbone, encoder, search: Search, contexts) -> tuple[Search, list[list[int]]]:
    """Makes a new token, forced, of the one that every text begins with behind the decoder's start token.

    So transformers counts a forced_bos_token_id, and so a model counts that writes its special token in front by
    itself. Where a template has more in the decoder, the token is a part of the context.
    """
    start, *first = contexts[0][-2:]
    if start != backbone.config.start_id or not first or first != list(_leading(backbone)):
        return search, contexts
    if encoder is not None and split_sides(encoder.template)[1].fields:
        return search, contexts  # A field may be empty here and not there, and texts are all counted alike.
    return dataclasses.replace(search, forced_bos=first[0]), [context[:-1] for context in contexts]


def _leading(backbone) -> tuple[int, ...]:
    """What stands in front of a target of an encoder-decoder, behind its start token: as in front of every text."""
    forced = backbone.forced_bos_id
    return text_tokenizer(backbone.tokenizer, backbone.vocab_size).leading if forced is None else (forced,)


def _contexts(backbone, texts, prompt, encoder) -> tuple[list[int], list[list[int]], list[list[int]] | None]:
    """The ids that all contexts share, to be computed once, the rest of each, and what an encoder reads."""
    if encoder is not None:
        rows = rows_of(texts, encoder.template.fields)
        trunks = [encoder.context(row, number=number) for number, row in enumerate(rows, 1)]
        contexts = [trunk.ids for trunk in trunks]
        shared = encoder.shared_head(contexts)
        sources = [trunk.source.tolist() for trunk in trunks] if backbone.seq2seq else None
        return contexts[0][:shared], [c[shared:] for c in contexts], sources
    contexts = [_ids(backbone, text, number) for number, text in enumerate(texts, 1)]
    rows = 0 if prompt is None or prompt.soft is None else prompt.soft.shape[0]
    soft_ids = [backbone.vocab_size + i for i in range(rows)]
    if backbone.seq2seq:
        ahead = [backbone.config.start_id, *_leading(backbone)]
        return [], [ahead] * len(contexts), [soft_ids + context for context in contexts]
    return soft_ids, contexts, None


def _ids(backbone, text: str, number: int) -> list[int]:
    """The ids of a plain text as the tokenizer has them, special tokens included."""
    if not isinstance(text, str):
        raise InputError(f"text {number} is a row of fields, which need a prompt with a template: give plain texts")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InputError(f"text {number}, {_shown(text)}, has half a surrogate pair: repair the text")
    ids = whole_ids(backbone.tokenizer, text, f"text {number}", backbone.vocab_size)
    if not ids:
        raise InputError(f"text {number}: an empty text has no token to continue: give at least one character")
    return ids


def naming_source(texts) -> AbstractContextManager:
    """Puts a source's name before what is wrong with its rows; plain texts have none."""
    return texts.naming() if isinstance(texts, Source) else nullcontext()


def rows_of(texts: Iterable[str | dict], fields: Sequence[str]) -> list[dict]:
    """Rows for a template: a plain text fills its only field."""
    rows = []
    for text in _listed(texts):
        if isinstance(text, str) and len(fields) != 1:
            raise InputError(f"the template has the fields {', '.join(fields) or '(none)'}: give rows with all of them")
        rows.append({fields[0]: text} if isinstance(text, str) else text)
    return rows


def _listed(texts) -> list[str | Mapping]:
    """The texts or rows as a list; raises InputError for one text by itself, a table, or what is neither."""
    # A table's iterator gives its columns, an array without axes has none.
    alone = isinstance(texts, str | bytes | Mapping) or hasattr(texts, "columns")
    if alone or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        raise InputError(f"texts is {_shown(texts)}: give a list of texts, or of rows {{field: value}}")
    texts = list(texts)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str | Mapping):
            raise InputError(f"text {number} is {_shown(text)}: give a text, or a row {{field: value}}")
    return texts


def _shown(value) -> str:
    """A value in one short line."""
    return " ".join(reprlib.repr(value).split())


def _prefix(backbone, hoisted, soft, prefix: Prefix | None) -> Prefix | None:
    """The learned prefix, and behind it what all contexts share."""
    if not hoisted:
        return prefix
    return compiler.jit(backbone.prefill)(backbone.params, jnp.asarray(hoisted), soft=soft, prefix=prefix)


def _text(backbone, context: Sequence[int], tokens: np.ndarray, search: Search) -> str:
    """The new tokens as text. A word's leading space shows only after the text before it, so both are decoded."""
    tokens = [int(t) for t in tokens]
    end = next((at for at, token in enumerate(tokens) if token in search.eos), len(tokens))
    soft = [i for i, token in enumerate(context) if token >= backbone.vocab_size]
    forced = 0 if search.forced_bos is None else 1
    before = [int(t) for t in context[soft[-1] + 1 if soft else 0 :]] + tokens[:forced]
    text_of = partial(backbone.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text_of(before + tokens[forced:end])[len(text_of(before)) :]
