"""Text behind contexts: batched by length, what they share computed once. Token ids in, text out."""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.errors import InputError, not_finite, within_memory
from jaxprompt.machine import compiler
from jaxprompt.models.adapted import adapted
from jaxprompt.models.numbered import texts_ahead
from jaxprompt.scoring.decode import Search, decode
from jaxprompt.scoring.owners import in_one_row, moved
from jaxprompt.text.encode import RowEncoder, Trunk
from jaxprompt.text.layout import split_sides
from jaxprompt.text.tokens import text_tokenizer
from jaxprompt.types import Conditioning, Inputs, Prefix, prefix_length

# Contexts are padded to this times a power of two, so that texts of similar length share one compiled program.
LENGTH_MULTIPLE = 32


@dataclass(frozen=True)
class Contexts:
    """What is to be continued.

    Attributes:
      shared: ids that all begin with, computed once.
      own: the rest of each, at least one token.
      sources: what an encoder reads for each, of an encoder-decoder; else None.
      read: which tokens of `own`, or of the sources if there are any, as `Inputs.read`; None: none.
      owners: whose prompt each is under, where there are several; `shared` then holds the ids of each owner.
    """

    shared: list[int] | list[list[int]]
    own: list[list[int]]
    sources: list[list[int]] | None = None
    read: list[list[bool]] | None = None
    owners: list[int] | None = None

    def starts(self, prefix: Prefix | None) -> tuple[int, ...]:
        """Behind a learned prefix, where the own tokens of each owner start; of all, where there are no owners."""
        if self.owners is None:
            return (prefix_length(prefix) + len(self.shared),)
        lengths = (0,) * len(self.shared) if prefix is None else prefix.lengths
        return tuple(length + len(ids) for length, ids in zip(lengths, self.shared, strict=True))

    @classmethod
    def of_owners(cls, parts: Sequence["Contexts"], rows_before: Sequence[int], vocab_size: int) -> "Contexts":
        """The contexts of several owners together.

        Args:
          rows_before: how many soft rows stand before those of each in a joined conditioning.
        """
        shared, own, sources, read, owners = [], [], [], [], []
        for owner, (part, before) in enumerate(zip(parts, rows_before, strict=True)):

            def behind(ids, before=before):
                return moved(ids, before, vocab_size).tolist()

            shared.append(behind(part.shared))
            own += map(behind, part.own)
            sources += map(behind, part.sources or [])
            read += part.read or [[]] * len(part.own)
            owners += [owner] * len(part.own)
        return cls(shared, own, sources or None, read if any(part.read for part in parts) else None, owners)


def contexts_of(trunks: Sequence[Trunk], encoder: RowEncoder) -> Contexts:
    """The contexts of laid out rows."""
    ids = [trunk.ids for trunk in trunks]
    shared = encoder.shared_head(ids)
    sources = None if trunks[0].source is None else [trunk.source.tolist() for trunk in trunks]
    read = None
    if encoder.marks:
        read = [trunk.read[shared:] if sources is None else trunk.source_read for trunk in trunks]
    return Contexts(ids[0][:shared], [context[shared:] for context in ids], sources, read)


def search_of(
    backbone, contexts: Contexts, encoder: RowEncoder | None, prefix: Prefix | None, **options
) -> tuple[Search, Contexts]:
    """How texts are looked for, by options of `Search`, and the contexts as it takes them.

    Args:
      encoder: of a prompt's template, which may have learned to end with another token than the tokenizer's.
      prefix: a learned one, which takes positions.

    Raises:
      InputError: a context or source that does not fit the positions, or a source of nothing.
    """
    eos = backbone.tokenizer.eos_token_id
    ends = () if encoder is None else encoder.layout.target_tail[:1]
    ends = dict.fromkeys([*([] if eos is None else [eos]), *backbone.eos_ids, *ends])
    search = Search(eos=tuple(ends), forced_eos=backbone.forced_eos_id, **options)
    if contexts.sources is not None:
        search, contexts = _forced_first(backbone, encoder, search, contexts)
    _check_room(backbone, search, max(contexts.starts(prefix)), contexts)
    return search, contexts


def _forced_first(backbone, encoder, search: Search, contexts: Contexts) -> tuple[Search, Contexts]:
    """Makes a new token, forced, of the one that every text begins with behind the decoder's start token.

    So transformers counts a forced_bos_token_id, and so a model counts that writes its special token in front by
    itself. Where a template has more in the decoder, the token is a part of the context.
    """
    start, *first = contexts.own[0][-2:]
    if start != backbone.config.start_id or not first or first != list(leading(backbone)):
        return search, contexts
    if encoder is not None and split_sides(encoder.template)[1].fields:
        return search, contexts  # A field may be empty here and not there, and texts are all counted alike.
    own = [context[:-1] for context in contexts.own]
    return dataclasses.replace(search, forced_bos=first[0]), dataclasses.replace(contexts, own=own)


def leading(backbone) -> tuple[int, ...]:
    """What stands in front of a target of an encoder-decoder, behind its start token: as in front of every text."""
    forced = backbone.forced_bos_id
    return text_tokenizer(backbone.tokenizer, backbone.vocab_size).leading if forced is None else (forced,)


def _check_room(backbone, search: Search, start: int, contexts: Contexts) -> None:
    """Raises InputError for the longest context or source that does not fit the positions, or a source of nothing.

    Args:
      start: how many positions stand before the contexts' own tokens.
    """
    number = max(range(len(contexts.own)), key=lambda at: len(contexts.own[at]))
    length = start + len(contexts.own[number])
    if length + search.max_new_tokens > backbone.max_positions:
        raise InputError(
            f"text {number + 1}: a context of {length} tokens and {search.max_new_tokens} new ones do not fit the "
            f"backbone's {backbone.max_positions} positions: shorten the text or max_new_tokens"
        )
    for number, source in enumerate(contexts.sources or (), 1):
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


def write(
    backbone, search: Search, contexts: Contexts, conditioning: Conditioning, batch_size: int, seed: int = 0
) -> list[str]:
    """Continues contexts.

    Args:
      conditioning: what the backbone is conditioned on.
      batch_size: texts decoded at a time.
      seed: of the sampling.

    Returns:
      The texts behind the contexts, in their order.

    Raises:
      InputError: values that are not finite (a model that overflows float16), or too little memory.
    """
    backbone = dataclasses.replace(backbone, params=adapted(backbone.params, conditioning))
    rows = min(batch_size, len(contexts.own))
    _check_memory(backbone, search, rows, max(map(len, contexts.own)) + search.max_new_tokens)
    prefix = _prefix(backbone, contexts, conditioning)
    room = backbone.max_positions - prefix_length(prefix) - search.max_new_tokens
    written: list[str] = [""] * len(contexts.own)
    for number, here in enumerate(_batches(contexts, search, batch_size)):
        own = [contexts.own[at] for at in here]
        ids, lengths = _padded(own, rows, room)
        given = {"soft": conditioning.soft_rows, "prefix": prefix, "source_prefix": conditioning.source_prefix}
        by_row = None
        if contexts.owners is not None:
            of_rows = [contexts.owners[at] for at in [*here, *[here[-1]] * (rows - len(here))]]
            given["owners"] = np.array(of_rows, np.int32)
            by_row = given["owners"][:, None]
        given["first"] = texts_ahead(contexts.shared, backbone.vocab_size, by_row)
        if contexts.sources is not None:
            source, real = _padded([contexts.sources[at] for at in here], rows, backbone.max_positions)
            places = np.broadcast_to(np.arange(source.shape[1], dtype=np.int32), source.shape)
            read = _padded_marks(contexts, here, source.shape)
            given["source"] = Inputs(source, places, (places < real[:, None]).astype(np.int32), read=read)
        else:
            given["read"] = _padded_marks(contexts, here, ids.shape)
        key = jax.random.fold_in(jax.random.key(seed), number * batch_size)
        with within_memory("lower batch_size, num_beams or max_new_tokens"):
            tokens, scores = map(np.asarray, decode(backbone, search, ids, lengths, key=key, **given))
        broken = np.flatnonzero(np.isnan(scores[: len(here)]))
        if broken.size:
            raise not_finite(f"text {min(here[at] for at in broken) + 1}", backbone.dtype)
        for at, context, new in zip(here, own, tokens, strict=False):
            written[at] = _text(backbone, context, new, search)
    return written


def _batches(contexts: Contexts, search: Search, size: int) -> list[list[int]]:
    """The numbers of the contexts of each batch: those of like length together, unless a draw depends on the order."""
    order = list(range(len(contexts.own)))
    if not search.temperature:
        sources = contexts.sources or contexts.own
        order.sort(key=lambda at: (len(sources[at]), len(contexts.own[at])))
    return [order[first : first + size] for first in range(0, len(order), size)]


def _padded(rows: list[list[int]], count: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows of ids and their lengths, padded on the right; the last row again where there are fewer.

    A copy ends when its original does (unless it is sampled), where an empty row would be continued to the last token.
    """
    longest = max(map(len, rows))
    length = min(LENGTH_MULTIPLE << max(math.ceil(math.log2(longest / LENGTH_MULTIPLE)), 0), max(room, longest))
    ids, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
    for number in range(count):
        row = rows[min(number, len(rows) - 1)]
        ids[number, : len(row)], lengths[number] = row, len(row)
    return ids, lengths


def _padded_marks(contexts: Contexts, numbers: list[int], shape: tuple[int, int]) -> np.ndarray | None:
    """The marks of some contexts as `_padded` pads their ids."""
    if contexts.read is None:
        return None
    marks = np.zeros(shape, bool)
    for row in range(shape[0]):
        of = contexts.read[numbers[min(row, len(numbers) - 1)]]
        marks[row, : len(of)] = of
    return marks


def _prefix(backbone, contexts: Contexts, conditioning: Conditioning) -> Prefix | None:
    """The learned prefix, and behind it what all contexts share."""
    learned, starts = conditioning.prefix, contexts.starts(conditioning.prefix)
    if contexts.owners is None:
        shared = jnp.asarray(contexts.shared) if contexts.shared else None
    else:
        shared = in_one_row(contexts.shared, (0,) * len(starts) if learned is None else learned.lengths)
    if shared is None:
        return learned
    prefix = compiler.jit(backbone.prefill)(backbone.params, shared, soft=conditioning.soft_rows, prefix=learned)
    return prefix if contexts.owners is None else prefix.replace(length=max(starts), lengths=starts)


def _text(backbone, context: Sequence[int], tokens: np.ndarray, search: Search) -> str:
    """The new tokens as text. A word's leading space shows only after the text before it, so both are decoded."""
    tokens = [int(t) for t in tokens]
    end = next((at for at, token in enumerate(tokens) if token in search.eos), len(tokens))
    soft = [i for i, token in enumerate(context) if token >= backbone.vocab_size]
    forced = 0 if search.forced_bos is None else 1
    before = [int(t) for t in context[soft[-1] + 1 if soft else 0 :]] + tokens[:forced]
    text_of = partial(backbone.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text_of(before + tokens[forced:end])[len(text_of(before)) :]
