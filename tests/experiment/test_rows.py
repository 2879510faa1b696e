"""What a config's rows become before a model is loaded."""

import math

import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.rows import training_rows, validation_rows
from jaxprompt.experiment.run_folder import dumped


def config(rows, **data):
    objective = {"type": "verbalizer", "labels": data.pop("labels", None)}
    return load_config(
        {"model": "m", "template": "{text} {target}", "objective": objective, "data": {"train": rows, **data}}
    )


def test_rows_of_numpy_are_kept_as_those_of_python():
    rows = [{"text": "a", "label": 1, "more": 0.5}, {"text": "b", "label": 0, "more": True}]
    numpy = [
        {"text": np.str_("a"), "label": np.int64(1), "more": np.float64(0.5)},
        {"text": "b", "label": np.int8(0), "more": np.True_},
    ]
    assert dumped(config(rows)) == dumped(config(numpy))
    assert "train: memory:" in dumped(config(rows))
    with pytest.raises(InputError, match=r"^data\.train: no rows \(give at least one\)$"):
        dumped(config([]))
    with pytest.raises(InputError, match="given in memory and not kept"):
        training_rows(load_config({**config(rows).model_dump(), "data": {"train": "memory:0123"}}))


def test_a_few_of_each_label_whatever_its_type():
    rows = [{"text": "a", "label": label} for label in (1, "1", 1.0, np.int64(1), " 1", 0, "0")]
    assert len(training_rows(config(rows, per_label=2))) == 4
    with pytest.raises(InputError, match=r"^data\.per_label is 3, but label '0' has 2 rows"):
        training_rows(config(rows, per_label=3))
    with pytest.raises(InputError, match=r"^data\.train: row 2: column 'label' has no label: None"):
        training_rows(config([{"label": 1}, {"label": None}], per_label=1))


def test_names_in_a_config_have_one_text_each():
    assert config([], labels=[True, 1.0, np.int64(0), "x"]).objective.labels == ["true", "1", "0", "x"]
    assert config([], labels={False: "no", True: ["yes"]}).objective.labels == {"false": "no", "true": ["yes"]}
    for labels, says in (
        ({1: "a", "1": "b"}, "'1' is given twice"),
        ([["a"], "b"], r"no label: \['a'\]"),
        ([None], "no label"),
    ):
        with pytest.raises(InputError, match=f"objective.labels.*{says}"):
            config([], labels=labels)


def test_validation_rows_without_a_label_are_counted_and_not_scored(stories, rows, tmp_path, quiet):
    """GLUE's test rows have the label -1."""
    tree = {
        "model": "stories260K",
        "template": "{text} {target}",
        "method": {"name": "none"},
        "objective": {"type": "verbalizer", "labels": ["bad", "good"]},
        "train": {"steps": 0},
    }

    def metrics(number, **data):
        run = {**tree, "data": data, "run_dir": str(tmp_path / str(number))}
        return jaxprompt.train(run, backbone=stories, reporter=quiet).metrics

    unlabelled = [{**rows[0], "label": np.int64(-1)}, *rows, {**rows[1], "label": "-1"}]
    want, got = metrics(0, validation=rows), metrics(1, validation=unlabelled)
    assert got.pop("without_answer") == 2
    assert got.pop("confusion") == want.pop("confusion")
    assert got == pytest.approx(want)
    with pytest.raises(
        InputError, match=r"^data\.validation: no row has a label, only -1 .* \(use the validation split"
    ):
        metrics(2, validation=unlabelled[:1])
    with pytest.raises(InputError, match=r"^data\.train: row 1: label -1 stands for no label"):
        metrics(3, train=unlabelled)


@pytest.mark.parametrize(
    ("objective", "key", "value", "says"),
    [
        ("generation", "target", math.nan, "row 1: column 'target' is nan (fill it in, or remove the row)"),
        ("generation", "target", None, "row 1: column 'target' is None (fill it in, or remove the row)"),
        ("generation", "target", [["a"]], "row 1: column 'target' is ['a'] (give a text or a number)"),
        # Written as one that makes it: pytest cannot name a test after so long a number.
        ("regression", "label", lambda: 10**5000, "row 1: 'label' is a value of type int: give a finite number"),
        ("verbalizer", "label", {"a": 1}, "row 1: column 'label' has no label: {'a': 1}"),
    ],
)
def test_an_answer_that_is_none_is_refused_with_its_row(stories, rows, tmp_path, quiet, objective, key, value, says):
    tree = {
        "model": "stories260K",
        "template": "{soft:2} {text}" + ("" if objective == "regression" else " {target}"),
        "objective": {"type": objective},
        "data": {"train": [{**rows[0], key: value() if callable(value) else value}, *rows[1:]]},
        "run_dir": str(tmp_path / "run"),
    }
    with pytest.raises(InputError) as error:
        jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert f"data.train: {says}" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_last_rows_held_out_for_validation():
    rows = [{"text": str(i), "label": i % 2} for i in range(6)]
    held = config(rows, holdout=2)
    assert [row["text"] for row in training_rows(held)] == ["0", "1", "2", "3"]
    assert [row["text"] for row in validation_rows(held)] == ["4", "5"]
    few = config(rows, holdout=3, train_rows=1, validation_rows=2)
    assert [row["text"] for row in training_rows(few)] == ["0"]
    assert [row["text"] for row in validation_rows(few)] == ["3", "4"]
    with pytest.raises(InputError, match=r"^data\.train: data\.holdout 6 leaves none of 6 rows to train on: lower it$"):
        training_rows(config(rows, holdout=6))
    with pytest.raises(InputError, match=r"^data\.holdout takes rows of data\.train"):
        validation_rows(config(rows, holdout=2, validation=rows))
