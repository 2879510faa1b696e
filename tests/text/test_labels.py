import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.text.labels import LabelSet, infer_labels


def test_labels_are_inferred_in_order():
    assert infer_labels([{"y": v} for v in ("b", "a", "b")], "y").names == ("a", "b")
    assert infer_labels([{"y": v} for v in (10, 9, 1)], "y").names == ("1", "9", "10")
    assert infer_labels([{"y": v} for v in ("10", "-1", "9")], "y").names == ("-1", "9", "10")
    assert infer_labels([{"y": v} for v in (True, False)], "y").names == ("False", "True")


def test_a_label_is_given_by_name_or_number():
    labels = LabelSet(("negative", "positive"))
    assert [labels.label_id(v) for v in ("positive", "1", 1, np.int64(0), "negative")] == [1, 1, 1, 0, 0]
    # A name that is a number comes before the number.
    assert LabelSet(("1", "0")).label_id(0) == 1
    # Among names that are numbers, a number that is no name is not a place.
    with pytest.raises(InputError, match="unknown label 1"):
        LabelSet(("0", "2")).label_id(1)


@pytest.mark.parametrize("value", ["positve", 2, -1, 1.0, None, "", "²"])
def test_a_label_outside_names_row_and_value(value):
    with pytest.raises(InputError) as error:
        LabelSet(("negative", "positive")).label_id(value, row=4)
    assert str(error.value).startswith(f"row 4: unknown label {value!r} (")
    assert value != "positve" or "did you mean 'positive'" in str(error.value)


def test_bad_label_sets():
    with pytest.raises(InputError, match="'a' is given twice"):
        LabelSet(("a", "b", "a"))
    with pytest.raises(InputError, match="no labels"):
        LabelSet(())
    with pytest.raises(InputError, match=r"^row 2: no column 'label' \(did you mean 'labels'\?\)"):
        infer_labels([{"label": 1}, {"labels": 1}], "label")
    with pytest.raises(InputError, match="row 1: column 'y' has no label"):
        infer_labels([{"y": None}], "y")
