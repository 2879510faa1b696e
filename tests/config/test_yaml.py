"""What a config file may hold: YAML 1.2's core schema, in bounds."""

import math
import os
import time

import numpy as np
import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.config import load_config
from jaxprompt.config.values import plain
from jaxprompt.config.yaml import read_text, write_text
from jaxprompt.errors import InputError

NASTY = [
    "yes",
    "No",
    "on",
    "1e5",
    "0x1F",
    "0o7",
    "012",
    "1:30",
    "2023-01-01",
    "~",
    "",
    " a ",
    "-",
    "=",
    "<<",
    ".inf",
    "+1",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    [*NASTY, "\x85\u2028\ufeff"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("yes", "no", "On", "off", "y", "N")),
        *(("true", True), ("True", True), ("FALSE", False), ("~", None), ("null", None), ("", None)),
        *(("1e-3", 1e-3), ("1.", 1.0), (".5", 0.5), ("-1E+2", -100.0), (".inf", math.inf), ("-.INF", -math.inf)),
        *(("012", 12), ("+7", 7), ("0x1F", 31), ("0o14", 12)),
        *((word, word) for word in ("1_000", "1:30", "2023-01-01", "0b1", "=", "<<")),
    ],
)
def test_plain_words_are_what_yaml_1_2_says(text, value):
    found = read_text(text)
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None)
@given(tree=TREES)
def test_what_is_written_is_read_back(tree):
    assert read_text(write_text(tree)) == tree
    assert read_text(write_text(tree, flow=True)) == tree


@settings(deadline=None)
@given(tree=st.dictionaries(TEXT, TEXT, max_size=3))
def test_texts_are_texts_to_readers_of_yaml_1_1_too(tree):
    assert pyyaml.safe_load(write_text(tree)) == tree


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefghij", "bcdefghijk", strict=True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB.encode(), "line 2"),
        (b"a: &a [*a]\n", "alias"),
        (b"[" * 3000, "nested deeper"),
        (b"model: a\nmodel: b\n", "'model' is there twice"),
        (b"1: a\n1.0: b\n", "twice"),
        (b"[a, b]: c\n", "no plain text"),
        (b"a: !!python/object:os.system {}\n", "tag"),
        (b"a: !!binary aGk=\n", "tag"),
        (b"a: b\n---\na: c\n", "not YAML"),
        (b"a: \x00\n", "not YAML"),
        (b'a: "\\ud800"\n', "surrogate"),
        ("a: b".encode("utf-16"), "UTF-8"),
        (b"a: " + b"1" * 5000, "5000 digits"),
        (b"- a\n", "not a mapping"),
        (b"#" * 10_000_001, "10000001 bytes"),
    ],
)
def test_hostile_files_are_one_line_in_no_time(tmp_path, content, says):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        load_config(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", ["folder", "pipe", "loop", "n" * 300, "nul\0"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError) as error:
        load_config(tmp_path / name)
    assert "\n" not in str(error.value)


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


def test_label_words_stay_words():
    text = "model: m\ntemplate: '{text}'\nobjective: {type: verbalizer, labels: {no: [no], yes: [yes]}}"
    assert load_config(read_text(text)).objective.labels == {"no": ["no"], "yes": ["yes"]}


@settings(deadline=None, max_examples=50)
@given(key=st.text(st.characters(exclude_categories=["Cs"]), max_size=8), value=TREES)
def test_any_override_is_a_config_or_one_line(key, value):
    for overrides in ({key: value}, [f"{key}={value}"], [f"train.{key}={value}"], {"train": {key: value}}):
        try:
            load_config(BASE, overrides)
        except InputError as error:
            assert "\n" not in str(error)
