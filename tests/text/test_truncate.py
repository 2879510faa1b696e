import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.text.tokens import text_tokenizer
from jaxprompt.text.truncate import _level, shorten


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 300))
def test_levelling_cuts_only_what_stands_above_the_level(lengths, total):
    total = min(total, sum(lengths))
    keep = _level(lengths, total)
    assert sum(keep) == total
    level = max(keep)
    for length, kept in zip(lengths, keep, strict=True):
        assert kept == length or level - 1 <= kept <= level


@pytest.mark.parametrize("text", ["👨‍👩‍👧" * 4, "👍🏽" * 6, "é" * 9, "हिन्दी में", "كِتَابٌ", "你好世界"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cut_never_falls_inside_a_character(request, name, text):
    tokens = text_tokenizer(request.getfixturevalue(name))
    for excess in range(1, len(tokens.encode(text)) + 1):
        (cut,) = shorten(tokens, [text], excess)
        assert text.startswith(cut)
        assert len(tokens.encode(cut)) <= len(tokens.encode(text)) - excess
        rest = text[len(cut) :]
        # No joiner, tone, accent or vowel sign is left without its base.
        assert rest[:1] not in ("\u200d", "\u0301", "\u094d", "\u093f", "\u0650", "\U0001f3fd")
        assert not cut.endswith("\u200d")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3), st.integers(1, 60))
def test_texts_lose_at_least_the_excess(gpt2, texts, excess):
    tokens = text_tokenizer(gpt2)
    left = shorten(tokens, texts, excess)
    lost = sum(len(tokens.encode(t)) for t in texts) - sum(len(tokens.encode(t)) for t in left)
    assert lost >= excess or not any(left)
    assert all(whole.startswith(part) for whole, part in zip(texts, left, strict=True))
