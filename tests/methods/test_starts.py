"""Starting values of soft prompts, against the embedding tables of real backbones."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.errors import InputError
from jaxprompt.methods import starts

KEY = jax.random.key(0)


def table_of(backbone):
    return backbone.word_embedding(backbone.params)


def ids_of(rows, table):
    """The token whose embedding each row is; the rows must be in the table bit for bit."""
    places = {row.tobytes(): number for number, row in enumerate(np.asarray(table))}
    return [places[row.tobytes()] for row in np.asarray(rows)]


@pytest.mark.parametrize("name", ["stories", "minilm"])
def test_ordinary_tokens_are_neither_special_nor_unused(name, request):
    tokenizer = request.getfixturevalue(name).tokenizer
    ids = starts.ordinary_ids(tokenizer, len(tokenizer))
    left_out = set(range(len(tokenizer))) - set(ids.tolist())
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    unused = {n for n, token in vocabulary.items() if re.match(r"\[unused|<0x", token)}
    assert unused and left_out == unused | set(tokenizer.all_special_ids)
    assert list(ids) == sorted(ids)


def test_the_tables_own_size_bounds_the_ids(stories):
    assert starts.ordinary_ids(stories.tokenizer, 300).max() == 299


def test_vocab_draws_different_frequent_words(minilm):
    table, frequent = table_of(minilm), starts.ordinary_ids(minilm.tokenizer, minilm.vocab_size)[:300]
    ids = ids_of(starts.vocab(KEY, 300, table, minilm.tokenizer, 300), table)
    # As many as there are, each once: a draw without replacement from exactly those.
    assert sorted(ids) == sorted(frequent.tolist())
    assert ids != ids_of(starts.vocab(jax.random.key(1), 300, table, minilm.tokenizer, 300), table)


def test_vocab_repeats_words_only_when_there_are_too_few(stories):
    table = table_of(stories)
    ids = ids_of(starts.vocab(KEY, 12, table, stories.tokenizer, 5), table)
    assert set(ids) <= set(starts.ordinary_ids(stories.tokenizer, 512)[:5].tolist())
    assert len(ids) == 12


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 20), words=st.text("abc xyz", min_size=1).filter(str.strip))
def test_text_repeats_or_is_cut(stories, length, words):
    ids = stories.tokenizer(words, add_special_tokens=False)["input_ids"]
    assert starts.text_ids(length, stories.tokenizer, words).tolist() == (ids * length)[:length]


def test_text_rows_are_the_words_embeddings(stories):
    table = table_of(stories)
    rows = starts.text(6, table, stories.tokenizer, "Once upon")
    ids = stories.tokenizer("Once upon", add_special_tokens=False)["input_ids"]
    assert len(ids) < 6
    np.testing.assert_array_equal(rows, np.asarray(table)[(ids * 6)[:6]])


def test_text_without_tokens_is_refused(minilm):
    with pytest.raises(InputError, match=r"method\.init\.text '' has no tokens"):
        starts.text(3, table_of(minilm), minilm.tokenizer, "")


def test_a_label_starts_at_the_mean_of_its_words_and_vocabulary_fills_up(minilm):
    table, names = np.asarray(table_of(minilm)), ("card_not_working", "exchange")
    rows = np.asarray(starts.labels(KEY, 5, table_of(minilm), minilm.tokenizer, names, 50))
    several = minilm.tokenizer("card not working", add_special_tokens=False)["input_ids"]
    assert len(several) == 3
    np.testing.assert_allclose(rows[0], table[several].mean(0), rtol=1e-6)
    (one,) = minilm.tokenizer("exchange", add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(rows[1], table[one])
    frequent = starts.ordinary_ids(minilm.tokenizer, minilm.vocab_size)[:50].tolist()
    assert set(ids_of(rows[2:], table)) <= set(frequent)


def test_more_labels_than_rows_are_cut(minilm):
    names = ("good", "bad", "film")
    rows = starts.labels(KEY, 2, table_of(minilm), minilm.tokenizer, names, 50)
    words = minilm.tokenizer("good bad", add_special_tokens=False)["input_ids"]
    assert ids_of(rows, table_of(minilm)) == words


def test_labels_need_words(minilm):
    with pytest.raises(InputError, match=r"objective\.labels"):
        starts.labels(KEY, 2, table_of(minilm), minilm.tokenizer, (), 50)


def test_random_starts_have_the_asked_size():
    rows = np.asarray(starts.uniform(KEY, 200, 50, 0.25))
    assert 0.24 < np.abs(rows).max() <= 0.25
    assert abs(rows.mean()) < 0.01
    assert np.asarray(starts.normal(KEY, 200, 50, 3.0)).std() == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("start", ["text", "labels"])
def test_a_start_from_a_token_without_an_embedding_is_refused(stories, start):
    tokenizer = stories.tokenizer
    last = max(tokenizer(" dog", add_special_tokens=False)["input_ids"])
    table = table_of(stories)[:last]
    named = {"text": "method.init.text", "labels": "label 'dog'"}[start]
    with pytest.raises(InputError, match=f"^{named}: token .* has the id {last}, but the model has {last} embeddings"):
        if start == "text":
            starts.text(3, table, tokenizer, "dog")
        else:
            starts.labels(KEY, 3, table, tokenizer, ("dog",), 5)


def test_half_a_surrogate_pair_starts_nothing(stories):
    for call in (
        lambda: starts.text_ids(3, stories.tokenizer, "a\ud83d"),
        lambda: starts.text_tokens(stories.tokenizer, "a\ud83d"),
    ):
        with pytest.raises(InputError, match="half a surrogate pair"):
            call()
