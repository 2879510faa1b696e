import decimal
import fractions
import math

import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.text.values import column_value, shown, text_value


class NAType:
    """As pandas' NA, which is not installed here: no comparison has a truth value."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None

    def __repr__(self):
        return "<NA>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb ", "a\nb "),
        ("", ""),
        (np.str_("é"), "é"),
        (3, "3"),
        (3.0, "3.0"),
        (1e22, "1e+22"),
        (2**70, str(2**70)),
        (np.int64(-3), "-3"),
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.array(7), "7"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 2), "1/2"),
        (True, "true"),
        (np.False_, "false"),
    ],
)
def test_a_value_has_one_text(value, text):
    assert text_value({"a": value}, "a", 1) == text_value({"a": value}, "a", 1, "data.target") == text
    assert type(text_value({"a": value}, "a", 1)) is str


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is None (fill it in, or remove the row)"),
        (math.nan, "is nan (fill it in, or remove the row)"),
        (np.float32("nan"), "is nan (fill it in, or remove the row)"),
        (decimal.Decimal("sNaN"), "is Decimal('sNaN') (fill it in, or remove the row)"),
        (np.datetime64("NaT"), "is None (fill it in, or remove the row)"),
        (NAType(), "is <NA> (fill it in, or remove the row)"),
        (math.inf, "is inf (give a text or a number)"),
        (["a", "b"], "is ['a', 'b'] (give a text or a number)"),
        ({"a": 1}, "is {'a': 1} (give a text or a number)"),
        (np.eye(2), "is array([[1., 0.], [0., 1.]]) (give a text or a number)"),
        (b"a", "is b'a' (give a text or a number)"),
        (1j, "is 1j (give a text or a number)"),
        ("a\ud800", "has half a surrogate pair (repair the text)"),
        (fractions.Fraction(10**400), "is too large a number (give a smaller one, or a text)"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row_and_column(value, says):
    for key, kind in ((None, "field"), ("data.target", "column")):
        with pytest.raises(InputError) as error:
            text_value({"a": value}, "a", 3, key)
        assert str(error.value) == f"row 3: {kind} 'a' {says}"


def test_an_integer_of_thousands_of_digits_is_refused():
    with pytest.raises(InputError, match=r"^row 1: field 'a' is too large a number \(give a smaller one, or a text\)$"):
        text_value({"a": 10**5000}, "a", 1)


def test_a_missing_column_names_what_is_there():
    with pytest.raises(InputError, match=r"^row 2: no field 'txet' \(did you mean 'text'\?\)$"):
        text_value({"text": "a"}, "txet", 2)
    with pytest.raises(InputError, match=r"^no field 'txet'"):
        text_value({"text": "a"}, "txet", None)
    for read in (text_value, column_value):
        with pytest.raises(InputError, match=r"^row 2 has no 'target': its columns are a, b; set data\.target$"):
            read({"a": 1, "b": 2}, "target", 2, "data.target")
    wide = dict.fromkeys(f"column {i}" for i in range(1000))
    with pytest.raises(InputError, match=r"column 19, \.\.\. and 980 more; set data.target$"):
        column_value(wide, "target", 2, "data.target")


def test_columns_that_are_not_used_may_hold_anything():
    assert text_value({"a": "x", "b": [1], "c": math.nan, "d": object()}, "a", 1) == "x"


def test_a_value_is_shown_in_one_short_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "x" * 10_000, "a\nb", np.eye(100), 10**5000, [10**5000], list(range(1000))):
        assert len(shown(value)) < 100
        assert "\n" not in shown(value)
