"""What values a config may hold, whoever gives them, and how it names the others."""

import dataclasses
import datetime
import enum
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.config import Config, dump, keys, load_config
from jaxprompt.config.sections import AdafactorOptions
from jaxprompt.config.values import plain
from jaxprompt.config.yaml import MAX_VALUES, read_text
from jaxprompt.errors import InputError
from tests.config.test_yaml import TREES


def holding_itself():
    tree = {"model": "m", "template": "{text}"}
    tree["data"] = tree
    return tree


BASE = {"model": "m", "template": "{text}"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": {"steps": True}}, "train.steps"),
        ({"train": {"steps": 2**70}}, "train.steps"),
        ({"train": {"steps": "5"}}, "train.steps"),
        ({"train": {"batch_size": 10**9}}, "train.batch_size"),
        ({"train": {"eval_start": 1}}, "train.eval_start"),
        ({"optimizer": {"learning_rate": math.inf}}, "optimizer.learning_rate"),
        ({"optimizer": {"weight_decay": math.nan}}, "optimizer.weight_decay"),
        ({"optimizer": {"rates": {"head": math.inf}}}, "optimizer.rates"),
        ({"objective": {"type": "similarity", "temperature": math.inf}}, "objective.temperature"),
        ({"method": {"init": {"type": "normal", "scale": math.inf}}}, "method.init.scale"),
        ({"objective": {"type": "classifier", "labels": [["a", "b"]]}}, "objective.labels"),
        ({"objective": {"type": "classifier", "labels": {"a": {"b": "c"}, "d": "e"}}}, "objective.labels"),
        ({"run_dir": "x" * 300}, "run_dir"),
        ({"run_dir": "a\0b"}, "run_dir"),
        ({"template": "\ud800{text}"}, "template"),
        ({"data": {"columns": {"a", "b"}}}, "data.columns"),
        (holding_itself(), "data"),
    ],
)
def test_values_of_another_kind_are_refused_by_key(changes, key):
    with pytest.raises(InputError) as error:
        load_config({**BASE, **changes})
    assert repr(key)[1:-1] in str(error.value)
    assert "\n" not in str(error.value)


def test_numpys_numbers_paths_and_tuples_are_what_they_stand_for(tmp_path):
    config = load_config(
        {**BASE, "run_dir": tmp_path, "data": {"columns": ("a", "b")}, "train": {"steps": np.int64(3)}},
        {"optimizer": {"learning_rate": np.float32(0.5)}},
    )
    assert (config.run_dir, config.data.columns) == (str(tmp_path), ["a", "b"])
    assert (config.train.steps, config.optimizer.learning_rate) == (3, 0.5)
    assert plain({"a": np.bool_(True)}) == {"a": True}


class Word(enum.StrEnum):
    SGD = "sgd"


@dataclasses.dataclass
class Foreign:
    steps: int = 3

    def __repr__(self):
        raise RuntimeError("a repr that fails")


def cycle():
    tree = {}
    tree["a"] = [tree]
    return tree


ODD = {
    "set": {"a"},
    "generator": (letter for letter in "ab"),
    "dataclass": Foreign(),
    "class": Foreign,
    "bytes": b"x",
    "complex": 1j,
    "date": datetime.date(2023, 1, 1),
    "array": np.zeros(2),
    "numpy date": np.datetime64("2023-01-01"),
    "long double": np.longdouble(1),
    "cycle": cycle(),
    "key of another type": {("a",): 1},
    "key with NUL": {"a\0": "b"},
    "key with half a pair": {"\ud800": 1},
    "NUL": "a\0b",
    "half a pair": "a\ud800",
    "huge": 2**70,
    "nan": math.nan,
    "numpy nan": np.float32(math.nan),
    "inf": -math.inf,
    "beyond float32": 1e39,
    "nearly zero": -1e-39,
    "empty": "",
    "list of lists": [["a"]],
    "mapping of mappings": {"a": {"b": 1}},
    "nothing in a list": [None],
    "nothing in a mapping": {"a": None},
}


def with_choice(name, value):
    """The overrides that set a key, and choose what has it."""
    section, chosen = name.partition(".")[0], next(iter(keys()[name].fields))
    choice = Config.choices.get(section)
    return {name: value} if choice is None else {f"{section}.{choice.key}": chosen, name: value}


@pytest.mark.parametrize("kind", ODD)
def test_no_key_holds_what_is_no_plain_value_or_none_of_its_own(kind):
    for name in keys():
        with pytest.raises(InputError) as error:
            load_config(BASE, with_choice(name, ODD[kind]))
        message = str(error.value)
        assert name in message or "the config" in message, message
        assert len(message.splitlines()) == 1
        assert len(message) < 500


@pytest.mark.parametrize("name", [n for n in keys() if n not in ("data.train", "data.validation")])
def test_a_long_value_is_not_shown_at_length(name):
    with pytest.raises(InputError) as error:
        load_config(BASE, with_choice(name, [["x" * 100_000]]))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["model", "run_dir", "data.train", "data.validation", "method.init.path"])
def test_names_that_no_file_can_have_are_refused_before_they_are_looked_for(name):
    for path in ("x" * 300, "folder/" + "é" * 150 + "/rows.csv", "y/" * 2000):
        with pytest.raises(InputError, match=f"config key '{name}' is .*255 bytes at most"):
            load_config(BASE, {name: path})
    load_config(BASE, {name: "x" * 255})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("train.steps", 1e3, "write 1000"),
        ("train.steps", "5", "write a number, without quotes"),
        ("optimizer.learning_rate", "0.1", "write a number, without quotes"),
        ("train.eval_start", "yes", "write true or false"),
        ("data.label", 3, "put it in quotes"),
        ("model", "", "fill it in, or leave the key out"),
        ("optimizer.learning_rate", 1e39, "infinite in float32: give a smaller number"),
        ("optimizer.clip_norm", 1e-39, "zero in float32: give a larger number"),
        ("optimizer.rates", {"head": 1e300}, "'optimizer.rates.head'"),
        ("optimizer.rates", {"head": True}, "'optimizer.rates.head' has the value True"),
        ("train.steps", {"x": 1}, "has the value {'x': 1}"),
        ("train.steps", [1, 2], "has the value [1, 2]"),
    ],
)
def test_a_wrong_value_is_told_with_its_remedy(name, value, remedy):
    with pytest.raises(InputError) as error:
        load_config(BASE, {name: value})
    assert remedy in str(error.value)
    assert name in str(error.value)


def test_copies_are_of_python_s_own_types():
    given = {Word.SGD: Word.SGD, np.int64(1): [np.str_("a"), enum.IntEnum("Two", {"A": 2}).A], 2.5: True}
    found = plain(given)
    assert found == {"sgd": "sgd", 1: ["a", 2], 2.5: True}
    values = [*found, *found["sgd"], found["sgd"], *found[1]]
    assert {type(value) for value in values} == {str, int, float}


def test_a_value_given_many_times_counts_each_time():
    assert len(plain({"a": ["x"] * (MAX_VALUES - 3)})["a"]) == MAX_VALUES - 3
    with pytest.raises(InputError, match="more than 10000"):
        plain({"a": ["x"] * MAX_VALUES})
    bomb = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    start = time.perf_counter()
    with pytest.raises(InputError, match="has more than 10000"):
        load_config(BASE, {"data.columns": bomb})
    assert time.perf_counter() - start < 2


def test_a_config_keeps_its_choices_and_its_rows():
    rows = [{"text": np.str_("a"), "day": datetime.date(2023, 1, 1), "raw": b"\xff"}, {}]
    rows[1]["itself"] = rows
    # The name of the optimizer is not set, it is its type's.
    config = Config(**BASE, optimizer=AdafactorOptions(clip_norm=2.0), data={"train": rows})
    found = load_config(config, {"seed": 3})
    assert isinstance(found.optimizer, AdafactorOptions)
    assert (found.optimizer.clip_norm, found.seed) == (2.0, 3)
    assert found.data.train[0] == rows[0]


@pytest.mark.parametrize("source", [None, 3, b"x", ["a"], Foreign()])
def test_what_is_no_config_is_refused(source):
    with pytest.raises(InputError, match="give a YAML file, a mapping or a Config"):
        load_config(source)


@pytest.mark.parametrize(
    "overrides",
    ["seed=3", None, 5, [3], [None], [("seed", 3)], ["seed"], ["=3"], {("a",): 1}, {None: 1}, {1: 2}, Foreign()],
)
def test_what_is_no_override_is_refused(overrides):
    with pytest.raises(InputError) as error:
        load_config(BASE, overrides)
    assert len(str(error.value).splitlines()) == 1


NAMES = st.sampled_from([*keys(), "train", "method", "method.init", "optimizer.rates.head", "objective"])
# Each key, or one beside it.
KEYS = st.builds(
    "".join, st.tuples(st.sampled_from(["", "", "", ".", "x"]), NAMES, st.sampled_from(["", "", "", ".", ".x"]))
)
WORDS = st.sampled_from(
    ["[a]", "{a: [b]}", "null", "", "true", "1e3", "*a", "&a b", "!!int x", "{", "-", "---", "# a", "\u2028"]
)


@settings(deadline=None, max_examples=80)
@given(
    key=KEYS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    value=TREES,
    word=WORDS | st.text(max_size=5),
)
def test_any_override_is_a_config_or_one_line(key, value, word):
    for overrides in (
        {key: value},
        [f"{key}={value}"],
        [f"train.{key}={value}"],
        {"train": {key: value}},
        [f"{key}={word}"],
    ):
        try:
            config = load_config(BASE, overrides)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 2000
        else:
            # What is accepted can be written, and is the same when it is read.
            assert load_config(read_text(dump(config.model_dump(mode="json")))) == config
