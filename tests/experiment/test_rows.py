"""What a config's rows become before a model is loaded."""

import numpy as np
import pytest

from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import training_rows
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
