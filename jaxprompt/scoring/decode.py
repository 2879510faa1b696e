"""Decoding loops on token ids: greedy, sampling and beam search, with a key-value cache. Compiled, no text here."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.machine import compiler
from jaxprompt.machine.sharding import replicated
from jaxprompt.models.numbered import numbered
from jaxprompt.types import Inputs, Prefix

# What an impossible hypothesis scores. Finite, so that sums of it stay ordered.
_NEVER = -1.0e9
# Nothing smaller divides or compares as it should: float32 takes it for 0 (and what is larger than 1 / this, for inf).
_LEAST = 1.0e-30


@dataclass(frozen=True)
class Search:
    """How tokens are chosen.

    Attributes:
      max_new_tokens: write at most this many.
      eos: ids that end a text.
      forced_bos, forced_eos: what the first and the last of `max_new_tokens` must be; None: anything.
      temperature, top_k, top_p: as in `generate`.
      num_beams: 1, or the width of a beam search.
      length_penalty: hypotheses are compared by their log-probability divided by length ** length_penalty.
      early_stopping: end as soon as there are `num_beams` finished hypotheses, else when none can improve on them.
    """

    max_new_tokens: int
    eos: tuple[int, ...]
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    forced_bos: int | None = None
    forced_eos: int | None = None

    def allowed(self, scores: Float[Array, "*rows vocab"], number: Int[Array, ""]) -> Float[Array, "*rows vocab"]:
        """The scores of token `number`, counted from 0, where it may not be any."""
        for token, at in ((self.forced_bos, 0), (self.forced_eos, self.max_new_tokens - 1)):
            if token is not None:
                forced = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, -jnp.inf)
                scores = jnp.where(number == at, forced, scores)
        return scores

    def ends(self, tokens: Int[Array, "..."]) -> Int[Array, "..."]:
        """Whether each token ends its text."""
        return jnp.isin(tokens, jnp.asarray(self.eos or (-1,)))


def decode(
    backbone,
    search: Search,
    ids: Int[Array, "rows seq"],
    lengths: Int[Array, " rows"],
    *,
    soft: Float[Array, "prompt embed"] | None = None,
    prefix: Prefix | None = None,
    source: Inputs | None = None,
    source_prefix: Prefix | None = None,
    first: int | Int[Array, "rows 1"] = 0,
    read: Bool[Array, "rows seq"] | None = None,
    owners: Int[Array, " rows"] | None = None,
    key: Array | None = None,
) -> tuple[Int[Array, "rows new"], Float[Array, " rows"]]:
    """Continues token ids.

    Args:
      ids: contexts (of an encoder-decoder, what its decoder starts with), real tokens first.
      lengths: how many of each row are real, at least 1.
      soft, prefix: what the backbone is conditioned on.
      source: the encoder's rows, of an encoder-decoder; segment 1 in each.
      source_prefix: the encoder's prefix.
      first: how many tokens of each text are in the prefix; of several owners, of each row.
      read: of the contexts, as `Inputs.read`.
      owners: whose prefix each row sees, where there are several owners.
      key: of the sampling.

    Returns:
      The new tokens, ids after the first of `search.eos` meaning nothing, and each row's score: its log-probability,
      of a beam search divided by the length penalty. NaN where the model's logits are not finite.
    """
    key = jax.random.key(0) if key is None else key
    given = (ids, lengths, soft, prefix, source, source_prefix, first, read, owners, key)
    return _decode(_Model(backbone), search, backbone.params, *given)


class _Model:
    """A backbone as a static argument: equal when its module is, so that compiled programs are found again."""

    def __init__(self, backbone):
        self.backbone = backbone

    def __hash__(self):
        return hash(self.backbone.module)

    def __eq__(self, other):
        return self.backbone.module == other.backbone.module


@functools.partial(compiler.jit, static_argnums=(0, 1))
def _decode(model, search, params, ids, lengths, soft, prefix, source, source_prefix, first, read, owners, key):
    backbone = model.backbone
    memory = None
    if source is not None:
        source = numbered(params, source, backbone.vocab_size)
        source = source.replace(owners=_wide(owners, source.ids))
        memory = backbone.read(params, source, soft=soft, prefix=source_prefix)
    rows, length = ids.shape
    start = jnp.broadcast_to(0 if prefix is None else prefix.starts(owners), rows)
    cache = backbone.empty_cache(rows, length + search.max_new_tokens)
    real = (jnp.arange(length) < lengths[:, None]).astype(jnp.int32)
    positions = start[:, None] + jnp.arange(length)
    run = functools.partial(backbone.apply, params, soft=soft, prefix=prefix)
    inputs = Inputs(ids, positions, real, read=read, owners=_wide(owners, ids))
    if source is None:
        inputs = numbered(params, inputs, backbone.vocab_size, first=first)
    hidden, cache = run(inputs, cache=cache, memory=memory)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]

    def head(hidden):
        return backbone.head(params, hidden)

    def advance(token, cache, memory):
        """The hidden states behind one more token of each row."""
        # Of a beam search there are several of each row.
        start_of, owner_of = (None if x is None else jnp.repeat(x, len(token) // rows) for x in (start, owners))
        token = token[:, None]
        positions = (start_of + cache.index)[:, None]
        inputs = Inputs(token, positions, jnp.ones_like(token), owners=_wide(owner_of, token))
        hidden, cache = run(inputs, cache=cache, memory=memory)
        return hidden[:, 0], cache

    loop = _one_by_one if search.num_beams == 1 else _beams
    written = loop(search, head, advance, last, cache, memory, key)
    # Every process has the tokens of all rows.
    return jax.lax.with_sharding_constraint(written, replicated(backbone.mesh))


def _wide(owners, ids):
    """The owners of rows, for all of their tokens."""
    return None if owners is None else jnp.broadcast_to(owners[:, None], ids.shape)


def _one_by_one(search, head, advance, last, cache, memory, key):
    rows, count = last.shape[0], search.max_new_tokens

    def draw(hidden, key, number):
        logits = search.allowed(head(hidden), number)
        token = sample(logits, key, search.temperature, search.top_k, search.top_p)
        return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]

    def more(carry):
        return (carry[0] < count) & ~carry[4].all()

    def step(carry):
        number, (token, logprob), cache, key, done, tokens, score = carry
        tokens = tokens.at[:, number].set(token)
        score = score + jnp.where(done, 0.0, logprob)
        done = done | search.ends(token) | jnp.isnan(score)
        hidden, cache = advance(token, cache, memory)
        key, now = jax.random.split(key)
        return number + 1, draw(hidden, now, number + 1), cache, key, done, tokens, score

    key, now = jax.random.split(key)
    tokens = jnp.full((rows, count), search.eos[0] if search.eos else 0, jnp.int32)
    carry = (0, draw(last, now, 0), cache, key, jnp.zeros(rows, bool), tokens, jnp.zeros(rows))
    carry = jax.lax.while_loop(more, step, carry)
    return carry[5], carry[6]


def _beams(search, head, advance, last, cache, memory, key):
    """Beam search with the bookkeeping of transformers' `_beam_search`, so that scores and choices agree with it."""
    rows, beams, count = last.shape[0], search.num_beams, search.max_new_tokens
    kept = max(2, 1 + len(search.eos)) * beams

    def pick(array, index):
        """`array [rows, n, ...]` at `index [rows, m]`."""
        return jnp.take_along_axis(array, index.reshape(*index.shape, *[1] * (array.ndim - 2)), axis=1)

    def penalised(score, length):
        return score / jnp.asarray(length, jnp.float32) ** search.length_penalty

    def more(carry):
        _, _, _, (_, _, finished), improvable, hits, _, _ = carry
        return improvable.any() & ~(finished.all() & search.early_stopping) & ~hits.all()

    def step(carry):
        number, (tokens, scores), hidden, (done_tokens, done_scores, finished), improvable, _, broken, cache = carry
        logprobs = jax.nn.log_softmax(head(hidden)).reshape(rows, beams, -1)
        # One logit that is not finite makes NaN of all log-probabilities, or is -inf and merely impossible.
        broken |= jnp.isnan(logprobs[:, :, 0]).any(-1) & improvable
        logprobs = search.allowed(logprobs, number) + scores[:, :, None]
        vocab = logprobs.shape[-1]
        best, index = jax.lax.top_k(logprobs.reshape(rows, -1), kept)
        beam, token = index // vocab, (index % vocab).astype(jnp.int32)
        longer = pick(tokens, beam).at[:, :, number].set(token)
        hits = search.ends(token) | (number + 1 == count)
        # Only the best candidates count as finished; the others are there so that enough go on.
        ended = hits & (jnp.arange(kept) < beams)
        full = finished.all(-1, keepdims=True) & search.early_stopping
        closed = jnp.where(ended & ~full & improvable[:, None], penalised(best, number + 1), -jnp.inf)
        done_scores, order = jax.lax.top_k(jnp.concatenate([done_scores, closed], 1), beams)
        done_tokens = pick(jnp.concatenate([done_tokens, longer], 1), order)
        finished = pick(jnp.concatenate([finished, ended], 1), order)
        scores, order = jax.lax.top_k(best + hits * _NEVER, beams)
        tokens, beam, token = pick(longer, order), pick(beam, order), pick(token, order)
        parents = (jnp.arange(rows)[:, None] * beams + beam).reshape(-1)
        cache = cache.take(parents)
        hidden, cache = advance(token.reshape(-1), cache, wide_memory)
        worst = jnp.where(finished, done_scores.min(-1, keepdims=True), _NEVER)
        improvable &= (penalised(scores[:, :1], number + 1) > worst).any(-1) & ~broken
        done = (done_tokens, done_scores, finished)
        return number + 1, (tokens, scores), hidden, done, improvable, hits, broken, cache

    empty = jnp.full((rows, beams, count), search.eos[0] if search.eos else 0, jnp.int32)
    # At first all beams are the same: one of them goes on.
    scores = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER), (rows, beams))
    none_done = (empty, jnp.full((rows, beams), -jnp.inf), jnp.zeros((rows, beams), bool))
    wide_memory = memory if memory is None else memory.repeat(beams)
    carry = (
        0, (empty, scores), jnp.repeat(last, beams, axis=0), none_done, jnp.ones(rows, bool), jnp.zeros((rows, kept), bool),
        jnp.zeros(rows, bool), cache.take(jnp.repeat(jnp.arange(rows), beams)),
    )  # fmt: skip
    _, _, _, (done_tokens, done_scores, _), _, _, broken, _ = jax.lax.while_loop(more, step, carry)
    return done_tokens[:, 0], jnp.where(broken, jnp.nan, done_scores[:, 0])


def sample(logits, key, temperature: float, top_k: int | None, top_p: float | None):
    """One token id per row of fp32 logits `[rows, vocab]`."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # At most 0, so that no temperature, however low, takes the best one out of float32's range.
    logits = (logits - logits.max(-1, keepdims=True)) / min(max(temperature, _LEAST), 1 / _LEAST)
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None and top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, axis=-1)
        least = jnp.min(jnp.where(before < max(top_p, _LEAST), ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
