"""Text from a decoder or an encoder-decoder, with or without a learned prompt, in batches; the prompt computed once."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.errors import InputError, within_memory
from jaxprompt.experiment.build import context_encoder
from jaxprompt.inference.decode import Search, decode
from jaxprompt.prompts import Prompt
from jaxprompt.text.tokens import check_ids, text_tokenizer
from jaxprompt.types import Inputs, Prefix

# Contexts are padded to a multiple of this, so that texts of similar length share one compiled program.
LENGTH_MULTIPLE = 32


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

    Args:
      texts: plain texts; or, under a prompt whose template has fields, rows `{field: value}` (a plain text fills the
        template's only field).
      prompt: a learned prompt. Its template lays out the context; without one the prompt comes before the text.
      max_new_tokens: stop after this many tokens, or at the end-of-sequence token.
      temperature: 0 takes the most likely token; otherwise logits are divided by it and sampled.
      top_k: sample among this many most likely tokens.
      top_p: sample among the fewest most likely tokens whose probabilities sum to at least this.
      seed: of the sampling.
      batch_size: texts decoded at a time.
      num_beams: above 1, the width of a beam search.
      length_penalty: beams are compared by log-probability / length ** length_penalty: above 0 favours long texts.
      early_stopping: end as soon as `num_beams` texts are finished, instead of when none can improve on them.

    Returns:
      The continuations, without the texts.

    Raises:
      InputError: an encoder, a prompt of another backbone, an impossible option, or a text that is too long.
    """
    if not (backbone.causal or backbone.seq2seq):
        raise InputError(f"{backbone.ref!r} is an encoder: generation needs a decoder such as GPT-2, Llama or T5")
    eos = backbone.tokenizer.eos_token_id
    search = Search(
        max_new_tokens=max_new_tokens,
        eos=tuple(dict.fromkeys([*([] if eos is None else [eos]), *backbone.eos_ids])),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        forced_eos=backbone.forced_eos_id,
    )
    _check_options(search, seed, batch_size)
    if prompt is not None:
        prompt.check(backbone)
    if not texts:
        return []
    hoisted, contexts, sources = _contexts(backbone, texts, prompt)
    if prompt is not None and prompt.info.get("template"):
        # It may have learned to end with another token than the tokenizer's.
        ends = context_encoder(backbone, prompt).layout.target_tail[:1]
        search = dataclasses.replace(search, eos=tuple(dict.fromkeys([*search.eos, *ends])))
    start = (prompt.prefix.length if prompt is not None and prompt.prefix is not None else 0) + len(hoisted)
    longest = max(map(len, contexts))
    if start + longest + max_new_tokens > backbone.max_positions:
        raise InputError(
            f"a context of {start + longest} tokens and {max_new_tokens} new ones do not fit the backbone's "
            f"{backbone.max_positions} positions: shorten the text or max_new_tokens"
        )
    longest_source = max(map(len, sources or [[]]))
    if longest_source > backbone.max_positions:
        raise InputError(
            f"a source of {longest_source} tokens, prompt included, does not fit the backbone's "
            f"{backbone.max_positions} positions: shorten the text"
        )
    soft = None if prompt is None or prompt.soft is None else jnp.asarray(prompt.soft)
    room = backbone.max_positions - start - max_new_tokens
    conditioning = {"soft": soft, "prefix": _prefix(backbone, hoisted, soft, prompt)}
    if sources is not None and prompt is not None and prompt.source_prefix is not None:
        conditioning["source_prefix"] = jax.tree.map(jnp.asarray, prompt.source_prefix)
    written = []
    for first in range(0, len(contexts), batch_size):
        here = slice(first, first + batch_size)
        rows = min(batch_size, len(contexts))
        ids, lengths = _padded(contexts[here], rows, longest, room)
        if sources is not None:
            source, source_lengths = _padded(sources[here], rows, longest_source, backbone.max_positions)
            places = np.broadcast_to(np.arange(source.shape[1], dtype=np.int32), source.shape)
            conditioning["source"] = Inputs(source, places, (places < source_lengths[:, None]).astype(np.int32))
        key = jax.random.fold_in(jax.random.key(seed), first)
        with within_memory("lower batch_size, num_beams or max_new_tokens"):
            tokens = np.asarray(decode(backbone, search, ids, lengths, key=key, **conditioning)[0])
        written += [_text(backbone, c, t, search.eos) for c, t in zip(contexts[here], tokens, strict=False)]
    return written


def _padded(rows: list[list[int]], count: int, longest: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows of ids and their lengths, padded on the right."""
    length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, room)
    ids, lengths = np.zeros((count, length), np.int32), np.ones(count, np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)], lengths[number] = row, len(row)
    return ids, lengths


def _check_options(search: Search, seed: int, batch_size: int) -> None:
    for name, value, fine, need in (
        ("max_new_tokens", search.max_new_tokens, search.max_new_tokens >= 1, "at least 1"),
        ("temperature", search.temperature, search.temperature >= 0, "0 or more"),
        ("top_k", search.top_k, search.top_k is None or search.top_k >= 1, "at least 1"),
        ("top_p", search.top_p, search.top_p is None or 0 < search.top_p <= 1, "above 0 and at most 1"),
        ("seed", seed, 0 <= seed < 2**32, "from 0 to 2**32 - 1"),
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("num_beams", search.num_beams, isinstance(search.num_beams, int) and search.num_beams >= 1, "1 or more"),
        ("early_stopping", search.early_stopping, isinstance(search.early_stopping, bool), "true or false"),
        ("temperature", search.temperature, search.num_beams == 1 or search.temperature == 0, "0 in a beam search"),
    ):
        if not fine:
            raise InputError(f"{name} is {value}: it must be {need}")


def _contexts(backbone, texts, prompt) -> tuple[list[int], list[list[int]], list[list[int]] | None]:
    """The ids that all contexts share, to be computed once, the rest of each, and what an encoder reads."""
    if prompt is not None and prompt.info.get("template"):
        encoder = context_encoder(backbone, prompt)
        rows = rows_of(texts, encoder.template.fields)
        trunks = [encoder.context(row, number=number) for number, row in enumerate(rows, 1)]
        contexts = [trunk.ids for trunk in trunks]
        shared = encoder.shared_head(contexts)
        sources = [trunk.source.tolist() for trunk in trunks] if backbone.seq2seq else None
        return contexts[0][:shared], [c[shared:] for c in contexts], sources
    if any(not isinstance(text, str) for text in texts):
        raise InputError("rows of fields need a prompt with a template: give plain texts")
    broken = next((text for text in texts if any("\ud800" <= char <= "\udfff" for char in text)), None)
    if broken is not None:
        raise InputError(f"text {broken!r} has half a surrogate pair: repair the text")
    contexts = [
        check_ids(backbone.tokenizer(text)["input_ids"], backbone.tokenizer, backbone.vocab_size) for text in texts
    ]
    if not all(contexts):
        raise InputError("an empty text has no token to continue: give at least one character")
    rows = 0 if prompt is None or prompt.soft is None else prompt.soft.shape[0]
    soft_ids = [backbone.vocab_size + i for i in range(rows)]
    if backbone.seq2seq:
        # The special tokens in front of a text are there in a target too, behind the start token.
        forced = backbone.forced_bos_id
        leading = text_tokenizer(backbone.tokenizer).leading if forced is None else [forced]
        ahead = [backbone.config.start_id, *leading]
        return [], [ahead] * len(contexts), [soft_ids + context for context in contexts]
    return soft_ids, contexts, None


def rows_of(texts: Sequence[str | dict], fields: Sequence[str]) -> list[dict]:
    """Rows for a template: a plain text fills its only field."""
    rows = []
    for text in texts:
        if isinstance(text, str) and len(fields) != 1:
            raise InputError(f"the template has the fields {', '.join(fields) or '(none)'}: give rows with all of them")
        rows.append({fields[0]: text} if isinstance(text, str) else text)
    return rows


def _prefix(backbone, hoisted, soft, prompt) -> Prefix | None:
    prefix = None if prompt is None else prompt.prefix
    if prefix is not None:
        prefix = jax.tree.map(jnp.asarray, prefix)
    if hoisted:
        prefix = jax.jit(backbone.prefill)(backbone.params, jnp.asarray(hoisted), soft=soft, prefix=prefix)
    return prefix


def _text(backbone, context: Sequence[int], tokens: np.ndarray, eos: tuple[int, ...]) -> str:
    """The new tokens as text. A word's leading space shows only after the text before it, so both are decoded."""
    tokens = [int(t) for t in tokens]
    end = next((at for at, token in enumerate(tokens) if token in eos), len(tokens))
    soft = [i for i, token in enumerate(context) if token >= backbone.vocab_size]
    before = [int(t) for t in context[soft[-1] + 1 if soft else 0 :]]
    text_of = partial(backbone.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text_of(before + tokens[:end])[len(text_of(before)) :]
