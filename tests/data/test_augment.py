"""Changed texts: the same for the same row and epoch, others for others; labels are not touched."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.data.augment import CHANGES, Augment
from jaxprompt.errors import InputError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "then", "it", "sleeps"]
TEXT = " ".join(WORDS)
CHINESE = "这家酒店的环境很好但是房间太小"


def augment(changes=(), columns=("text",), alternatives=(), seed=0):
    changes = {name: dict(changes).get(name, 0.0) for name in CHANGES}
    return Augment(columns, changes, 3.0, "___", dict(alternatives), seed)


def texts(how, text=TEXT, count=400):
    return [how.row({"text": text, "label": 1}, number, 0)["text"] for number in range(count)]


@settings(deadline=None)
@given(st.text(min_size=1), st.sampled_from(list(CHANGES)), st.floats(0, 0.99), st.integers(0, 99), st.integers(0, 9))
def test_a_change_is_a_function_of_row_and_epoch(text, name, share, number, epoch):
    how = augment({name: share})
    row = {"text": text, "label": "x"}
    found = how.row(row, number, epoch)
    assert found == augment({name: share}).row(row, number, epoch)
    assert found["label"] == "x" and row["text"] == text
    assert bool(found["text"].strip()) == bool(text.strip())


def test_epochs_rows_and_seeds_differ():
    how = augment({"swap": 0.5})
    row = {"text": TEXT}
    found = {how.row(row, number, epoch)["text"] for number in range(5) for epoch in range(5)}
    assert len(found) > 20
    assert how.row(row, 0, 0) != augment({"swap": 0.5}, seed=1).row(row, 0, 0)


def test_deleted_words_are_as_many_as_asked_and_never_all():
    left = [len(text.split()) for text in texts(augment({"delete": 0.3}))]
    assert np.mean(left) == pytest.approx(0.7 * len(WORDS), rel=0.03)
    for text in texts(augment({"delete": 0.95})):
        assert text.split() and set(text.split()) <= set(WORDS)
    kept = texts(augment({"delete": 0.3}))[0].split()
    assert kept == [word for word in WORDS if word in kept][: len(kept)] or kept == sorted(kept, key=WORDS.index)


def test_swapped_words_are_the_same_words():
    found = texts(augment({"swap": 0.2}))
    assert all(sorted(text.split()) == sorted(WORDS) for text in found)
    moved = np.mean([sum(a != b for a, b in zip(text.split(), WORDS, strict=True)) for text in found])
    assert 2 < moved < 6


def test_inserted_marks_leave_the_words_in_order():
    for text in texts(augment({"insert": 0.3}), count=100):
        marks = re.findall(r"[.;?:!,]", text)
        assert len(marks) in (3, 4)
        assert [word for word in text.split() if word not in ".;?:!,"] == WORDS


def test_masked_spans_are_one_mask_each():
    found = texts(augment({"mask": 0.3}))
    gone = [len(WORDS) - sum(word != "___" for word in text.split()) for text in found]
    assert np.mean(gone) == pytest.approx(0.3 * len(WORDS), rel=0.03)
    masks = [text.split().count("___") for text in found]
    assert all("___ ___" not in text for text in found) and 1 < np.mean(masks) < 3


def test_a_script_without_spaces_changes_by_character():
    assert any(sorted(text) == sorted(CHINESE) and text != CHINESE for text in texts(augment({"swap": 0.3}), CHINESE))
    assert {len(text) for text in texts(augment({"delete": 0.3}), CHINESE)} > {9, 10, 11}
    inserted = texts(augment({"insert": 0.3}), CHINESE, 20)
    assert all(" " not in text and re.sub("[.;?:!,]", "", text) == CHINESE for text in inserted)


def test_other_wordings_are_taken_in_turn_where_they_are_there():
    how = augment(alternatives={"text": ["fr", "para"]})
    row = {"text": "a", "fr": "b", "para": "c", "label": 0}
    assert {how.row(row, 0, epoch)["text"] for epoch in range(30)} == {"a", "b", "c"}
    row = {"text": "a", "fr": None, "para": " ", "label": 0}
    assert {how.row(row, 0, epoch)["text"] for epoch in range(30)} == {"a"}
    with pytest.raises(InputError, match=r"^row 1: no column 'fr', which data\.augment\.alternatives names"):
        how.row({"text": "a"}, 0, 0)


def test_nothing_changes_without_a_change():
    assert augment().row({"text": "  a  b ", "n": 1}, 3, 4) == {"text": "  a  b ", "n": 1}
    assert augment({"delete": 0.5}).row({"text": " a\n"}, 0, 0)["text"] == " a\n"
