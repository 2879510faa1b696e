import numpy as np
import pytest

from jaxprompt.data.select import selected
from jaxprompt.errors import InputError

ROWS = [
    {"id": 1, "answers": {"text": ["a", "b"], "start": [0, 3]}, "lang": "en", "a.b": "dotted"},
    {"id": 2, "answers": {"text": ["c"], "start": [5]}, "lang": "de", "a.b": "too"},
]


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("answers.text", ["a", "b"]),
        ("answers.text[0]", "a"),
        ("answers.text[*]", "a; b"),
        ("answers.start[1]", 3),
        ("lang", "en"),
        ("a.b", "dotted"),
    ],
)
def test_paths(path, want):
    (row,) = selected(ROWS[:1], {"new": path}, {})
    assert row == {**ROWS[0], "new": want}


def test_lists_inside_lists_and_numpys():
    rows = [{"triples": [["A", "b", "C"], ["D", "e", "F"]], "ids": np.array([3, 4])}]
    (row,) = selected(rows, {"text": "triples[*][*]", "first": "ids[0]"}, {})
    assert (row["text"], row["first"]) == ("A | b | C; D | e | F", 3)


def test_where():
    assert [row["id"] for row in selected(ROWS, {}, {"lang": "de"})] == [2]
    assert [row["id"] for row in selected(ROWS, {}, {"lang": ["de", "en"], "id": 1.0})] == [1]
    assert [row["id"] for row in selected(ROWS, {"first": "answers.text[0]"}, {"first": "c"})] == [2]


@pytest.mark.parametrize(
    ("rename", "where", "message"),
    [
        ({"new": "answers.txt"}, {}, "row 1 has nothing at 'answers.txt'"),
        ({"new": "answers.text[1]"}, {}, "row 2 has nothing at 'answers.text[1]'"),
        ({"new": "lang[0]"}, {}, "row 1 has nothing at 'lang[0]'"),
        ({"new": "lang["}, {}, "data.rename has the path 'lang['"),
        ({"new": ""}, {}, "data.rename has the path ''"),
        ({}, {"land": "en"}, "row 1 has no 'land', by which data.where chooses (did you mean 'lang'?)"),
        ({}, {"lang": "fr"}, "no row is left where lang is fr"),
    ],
)
def test_what_leads_nowhere_is_said(rename, where, message):
    with pytest.raises(InputError) as error:
        selected(ROWS, rename, where)
    assert message in str(error.value) and "\n" not in str(error.value)
