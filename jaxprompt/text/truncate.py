"""Shortening field text so that an example fits."""

import unicodedata
from collections.abc import Sequence

from jaxprompt.text.tokens import TextTokenizer


def shorten(tokens: TextTokenizer, texts: Sequence[str], excess: int) -> list[str]:
    """Cuts about `excess` tokens off the ends of texts, off the longest first.

    The longest text is cut down to the next longest, then both, and so on. A cut never falls inside a character.

    Returns:
      The texts, together at least `excess` tokens shorter by their own tokenisation, or all empty.
    """
    offsets = [tokens.offsets(text) for text in texts]
    lengths = [len(spans) for spans in offsets]
    keep = _level(lengths, max(sum(lengths) - excess, 0))
    return [
        text if count == len(spans) else _cut(text, spans, count)
        for text, spans, count in zip(texts, offsets, keep, strict=True)
    ]


def beginning(tokens: TextTokenizer, text: str, limit: int) -> str:
    """Returns the text, or a beginning of it with over twice `limit` tokens: no more can matter of one that long.

    So that a book is not tokenised for the sake of its first page.
    """
    size = 16 * (limit + 64)
    while size < len(text):
        if len(tokens.encode(text[:size])) > 2 * limit:
            return text[:size]
        size *= 8
    return text


def _level(lengths: Sequence[int], total: int) -> list[int]:
    """Returns how much of each length to keep so that `total` is kept, taking from the longest first."""
    keep = [0] * len(lengths)
    # From the shortest up: each takes its even share of what is left, or all of itself.
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for rank, i in enumerate(order):
        keep[i] = min(lengths[i], total // (len(order) - rank))
        total -= keep[i]
    return keep


def _cut(text: str, spans: Sequence[tuple[int, int]], count: int) -> str:
    """Returns the part of a text that its first `count` tokens cover, whole characters only."""
    if count == 0:
        return ""
    # Tokens of one character share its span: end before the character that the first dropped token needs.
    end = min(spans[count - 1][1], spans[count][0])
    while 0 < end < len(text) and _joins(text[end - 1], text[end]):
        end -= 1
    return text[:end]


def _joins(before: str, after: str) -> bool:
    """Whether two code points belong to one visible character: accents, vowel signs, joined or toned emoji."""
    joiner = "\u200d"
    tone = "\U0001f3fb" <= after <= "\U0001f3ff"
    return joiner in (before, after) or tone or unicodedata.category(after).startswith("M")
