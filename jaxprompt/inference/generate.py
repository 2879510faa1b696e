"""Text from a decoder or an encoder-decoder, with or without a learned prompt, in batches; the prompt computed once."""

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp

from jaxprompt.backbone.padded import prompt_parts
from jaxprompt.data.sources import Source
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import context_encoder
from jaxprompt.prompts import Prompt
from jaxprompt.scoring.decode import Search
from jaxprompt.scoring.writing import Contexts, contexts_of, leading, search_of, write
from jaxprompt.text.tokens import whole_ids
from jaxprompt.text.values import text_value
from jaxprompt.types import Conditioning

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
    _check_search(Search(eos=(), **options), backbone.vocab_size)
    conditioning = Conditioning()
    if prompt is not None:
        if not isinstance(prompt, Prompt):
            raise InputError(f"prompt is a {type(prompt).__name__}: give a jaxprompt.Prompt, as load_prompt reads one")
        prompt.check(backbone)
        conditioning = jax.tree.map(jnp.asarray, prompt_parts(backbone, prompt))
    given = texts
    with naming_source(given):
        texts = _listed(given)
    if not texts:
        return []

    encoder = None if prompt is None or not prompt.info.get("template") else context_encoder(backbone, prompt)
    with naming_source(given):
        contexts = _contexts(backbone, texts, prompt, encoder)
        search, contexts = search_of(backbone, contexts, encoder, conditioning.prefix, **options)
    return write(backbone, search, contexts, conditioning, batch_size, seed)


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


def _contexts(backbone, texts, prompt, encoder) -> Contexts:
    if encoder is not None:
        rows = rows_of(texts, encoder.template.fields)
        return contexts_of([encoder.context(row, number=number) for number, row in enumerate(rows, 1)], encoder)
    own = [_ids(backbone, text, number) for number, text in enumerate(texts, 1)]
    rows = 0 if prompt is None or prompt.soft is None else prompt.soft.shape[0]
    soft_ids = [backbone.vocab_size + i for i in range(rows)]
    if prompt is not None and prompt.generator is not None:
        raise InputError("the prompt depends on the fields of its template, and has none: save it from its run again")
    if backbone.seq2seq:
        ahead = [backbone.config.start_id, *leading(backbone)]
        return Contexts([], [ahead] * len(own), [soft_ids + ids for ids in own])
    return Contexts(soft_ids, own)


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


def shown_input(row: Mapping, fields: Sequence[str], number: int) -> str:
    """What is shown of row `number`, from 1: its fields' texts."""
    return " | ".join(text_value(row, field, number) for field in fields if field in row)


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
