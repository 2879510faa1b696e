import decimal
import math
import time

import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.text.labels import UNLABELLED, LabelSet, by_label, canonical, infer_labels


class NAType:  # as pandas' NA, which answers no comparison
    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None


def infer(*values):
    return infer_labels([{"y": value} for value in values], "y")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("good", "good"),
        (" good", " good"),
        ("True", "True"),
        (np.str_("a"), "a"),
        (True, "true"),
        (np.False_, "false"),
        (1, "1"),
        (np.int8(-3), "-3"),
        (1.0, "1"),
        (-0.0, "0"),
        (np.float32(2), "2"),
        (np.array(1), "1"),
        (decimal.Decimal("2.00"), "2"),
        (2**70, "1180591620717411303424"),
        (float(2**70), "1180591620717411303424"),
        (0.5, "0.5"),
        (np.float32(0.1), "0.1"),
        (1e-7, "1e-07"),
    ],
)
def test_a_label_has_one_text(value, text):
    assert canonical(value) == text
    assert type(canonical(value)) is str
    assert LabelSet((text, "other")).label_id(value) == 0


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", math.nan, np.float32("nan"), np.datetime64("NaT"), decimal.Decimal("NaN"), NAType(), math.inf),
        *(["a"], {"a": 1}, ("a",), np.array([1, 2]), b"a", "\ud83d", pytest.param(10**5000, id="long"), object()),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(value):
    for refused in (
        lambda: LabelSet(("0", "1")).label_id(value, 4, True),
        lambda: by_label([{"y": value}], "y", LabelSet(("a",))),
    ):
        with pytest.raises(InputError, match=r"^row \d: no label: .*\)$") as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"^row 2: column 'y' has no label: .*\)$"):
        infer("1", value)
    with pytest.raises(InputError, match=r"^no label: "):
        LabelSet(("a", value))


def test_labels_are_inferred_in_order():
    assert infer("b", "a", "b").names == ("a", "b")
    assert infer(10, 9, 1).names == ("1", "9", "10")
    assert infer("10", "-1", "9").names == ("-1", "9", "10")
    assert infer(True, False).names == ("false", "true")
    assert infer("1" * 4500, "2").names == ("1" * 4500, "2")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((1, "1", 1.0, " 1", "1.0", np.int64(0)), ("0", "1")),
        ((True, "true", "True", False), ("false", "true")),
        # Spellings that stand for nothing else stay as they are.
        (("1.0", "0.0"), ("0.0", "1.0")),
        (("True", "False"), ("False", "True")),
        ((" a", "b"), (" a", "b")),
        ((" a", "a", "b"), ("a", "b")),
        ((True, 1, "x"), ("1", "true", "x")),
    ],
)
def test_other_types_and_spellings_of_a_label_are_one_class(values, names):
    labels = infer(*values)
    assert labels.names == names
    assert {labels.label_id(value) for value in values} == set(range(len(names)))


def test_a_label_is_given_by_name_or_number():
    labels = LabelSet(("negative", "positive"))
    given = ("positive", "1", 1, 1.0, " 1 ", "1.0", " positive", np.int64(0), np.float32(0), "negative")
    assert [labels.label_id(v) for v in given] == [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    # A name that is a number comes before the number.
    assert LabelSet(("1", "0")).label_id(0) == 1
    # Among names that are numbers, a number that is no name is not a place.
    for names in (("0", "2"), ("-1", "-2"), ("0.5", "1.5")):
        with pytest.raises(InputError, match="unknown label 1"):
            LabelSet(names).label_id(1)


def test_what_other_programs_write_is_found_where_it_is_clear():
    """pandas writes integers with gaps as 1.0 and booleans as True."""
    numbers = LabelSet(("0", "1"))
    assert [numbers.label_id(v) for v in ("1.0", " 1", "1", 1.0, np.float64(1))] == [1] * 5
    assert LabelSet(("0.0", "1.0")).label_id(1) == 1
    assert [LabelSet((True, False)).label_id(v) for v in ("True", "FALSE", "true ", False)] == [0, 1, 0, 1]
    # Names that differ in nothing else are told apart.
    apart = LabelSet(("a", " a", "1", "1.0"))
    assert [apart.label_id(v) for v in ("a", " a", 1, "1.0")] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="unknown label 'a '"):
        apart.label_id("a ")


@pytest.mark.parametrize("names", [(True, False), ("true", "false"), ("True", "False")])
def test_booleans_are_names_and_never_numbers(names):
    labels = LabelSet(names)
    assert [labels.label_id(v) for v in (True, False, np.True_)] == [0, 1, 0]
    for value in (1, 0, "1", 1.0):
        with pytest.raises(
            InputError, match=r"^row 2: unknown label .* beside booleans \(write it as one of: [Tt]rue, "
        ):
            labels.label_id(value, 2)


@pytest.mark.parametrize("names", [("no", "yes"), ("0", "1")])
def test_a_boolean_among_other_names_is_refused(names):
    for value in (True, np.False_):
        with pytest.raises(
            InputError, match=rf"^row 3: unknown label {bool(value)}, a boolean \(write .* {names[1]}; or"
        ):
            LabelSet(names).label_id(value, 3)


def test_a_number_among_inferred_names_is_refused():
    """MNLI's classes are numbered entailment, neutral, contradiction, and inferred by the alphabet."""
    labels = infer("entailment", "neutral", "contradiction")
    for value in (0, "0", 0.0, 7):
        with pytest.raises(
            InputError, match=r"^row 9: unknown label .*, a number, .* contradiction, entailment.*set obj"
        ):
            labels.label_id(value, 9)
    assert LabelSet(("entailment", "neutral", "contradiction")).label_id(0) == 0


@pytest.mark.parametrize("value", [-1, "-1", -1.0, np.int64(-1)])
def test_minus_one_stands_for_no_label(value):
    for labels in (LabelSet(("0", "1")), LabelSet(("no", "yes"))):
        with pytest.raises(InputError, match=r"^row 4: label -1 stands for no label, as in GLUE's test rows \(leave"):
            labels.label_id(value, row=4)
        assert labels.label_id(value, unlabelled_ok=True) == UNLABELLED == -1
    for others in ((1, 0), ("b", "a"), (0,), ()):
        with pytest.raises(InputError, match=rf"^row {len(others) + 1}: label -1 stands for no label"):
            infer(*others, value, value)
    # Where it is a class, it is one.
    assert infer(value, 1).names == ("-1", "1")
    assert LabelSet(("-1", "0", "1")).label_id(value, unlabelled_ok=True) == 0


@pytest.mark.parametrize("value", ["positve", 2, 1.5, "²", pytest.param("9" * 5000, id="long"), -2])
def test_a_label_outside_names_row_and_value(value):
    with pytest.raises(InputError) as error:
        LabelSet(("negative", "positive")).label_id(value, row=4)
    assert str(error.value).startswith(
        f"row 4: unknown label {value!r} (" if value != "9" * 5000 else "row 4: unknown label '999"
    )
    assert value != "positve" or "did you mean 'positive'" in str(error.value)


def test_bad_label_sets():
    with pytest.raises(InputError, match="'a' is given twice"):
        LabelSet(("a", "b", "a"))
    with pytest.raises(InputError, match="'1' is given twice"):
        LabelSet((1, 1.0))
    with pytest.raises(InputError, match="no labels"):
        LabelSet(())
    with pytest.raises(InputError, match=r"^row 2: no column 'label' \(did you mean 'labels'\?\)"):
        infer_labels([{"label": 1}, {"labels": 1}], "label")
    with pytest.raises(InputError, match="row 1: column 'y' has no label"):
        infer_labels([{"y": None}], "y")


def test_rows_by_label():
    rows = [{"y": value} for value in ("b", 0, "a", "0", "1.0")]
    assert by_label(rows, "y", LabelSet(("a", "b"))) == {"b": [0, 4], "a": [1, 2, 3]}
    with pytest.raises(InputError, match=r"^row 2 has no 'y': its columns are z; set data\.label$"):
        by_label([{"y": "a"}, {"z": 1}], "y", LabelSet(("a", "b")))


def test_a_column_of_texts_taken_for_labels_is_refused_quickly():
    texts = [f"{i} is the number of a text of some length about this and that" * 30 for i in range(5000)]
    labels = infer(*texts)
    assert len(labels.names) == 5000
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        labels.label_id("x is the number of a text of some length about this and that" * 30)
    assert time.perf_counter() - start < 2  # minutes, where each is compared
    assert len(str(error.value)) < 2000
