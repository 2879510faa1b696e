"""What a config file may hold: YAML 1.2's core schema, in bounds."""

import math
import os
import time

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt.config import load_config
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
        *(
            (word, word)
            for word in ("1_000", "1:30", "2023-01-01", "0b1", "=", "<<", "+.5e", "0x", "1e", "Yes", "nULL")
        ),
        *(("!!str 1", "1"), ("!!float 1", 1.0), ("!!int '1'", 1), ("!!bool 'true'", True), ("!!null ''", None)),
        # JSON's way to write what is beyond 16 bits, and what else JSON may hold.
        *(
            (r'"\ud83d\ude00"', "\U0001f600"),
            (r'{"a": [1, -2.5e3, null, "\u00e9\/"]}', {"a": [1, -2500.0, None, "é/"]}),
        ),
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


# Each was an exception of another kind, an infinity or nothing at all.
UNREADABLE = [
    *(
        "!!bool x",
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!null x",
        "! x",
        "!mine x",
        "!!set {a}",
        "!!timestamp 2023-01-01",
    ),
    *("!!int {a: b}", "!!float []", "!!bool [a]", "!!str [a]", "!!seq {a: b}", "!!map [a]"),
    *(
        r'"\U00110000"',
        r'"\UFFFFFFFF"',
        r'"\q"',
        r'"\ud800\ud800"',
        r'"\0"',
        "1e999",
        "-1e999",
        "*a",
        "@",
        "{? [a] : b}",
    ),
]
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
        *((f"model: m\nx: {bad}\n".encode(), "line 2") for bad in UNREADABLE),
        (b"a:\n\t- b\n", "line 2 is not YAML: found character '\\t' that cannot start any token; write spaces"),
        (b"a: b\n---\na: c\n", "line 2 is not YAML: found another document; keep one"),
        (b"a: b\nc: \x1b\n", "line 2 is not YAML: it holds U+001B: remove it"),
        (b"a: b\nc: \xe9\n", "line 2 cannot be read (byte 0xe9 is not UTF-8): save it as UTF-8"),
        ("a: b\nc: d\u2028e\n".encode(), 'line 2 holds U+2028, which readers of YAML disagree about: write "\\u2028"'),
        ("a: b".encode("utf-16-le"), "save the file as UTF-8"),
        (b"a: [" + b"b, " * 100_000, "more than 10000 keys and values: put rows into a file"),
        (b"a: '" + b"\n" * 490_000, "not YAML"),
        (b"- &a b\n- &a b\n", "line 2 is not YAML: second occurrence; give each anchor"),
        (b"a: 0x" + b"f" * 5000, "5002 digits: write a smaller one"),
    ],
)
def test_hostile_files_are_one_line_in_no_time(tmp_path, content, says):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        load_config(path)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 600
    assert "quote texts" not in str(error.value) or "is not YAML" in str(error.value)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", ["folder", "pipe", "loop", "n" * 300, "nul\0", "\ud800", "folder/..", "file/under"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        load_config(tmp_path / name)
    assert "\n" not in str(error.value)


def test_label_words_stay_words():
    text = "model: m\ntemplate: '{text}'\nobjective: {type: verbalizer, labels: {no: [no], yes: [yes]}}"
    assert load_config(read_text(text)).objective.labels == {"no": ["no"], "yes": ["yes"]}


def test_a_file_whose_name_is_no_text_names_no_run_folder(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.yaml")
    path.write_text("model: m\ntemplate: t\n")
    with pytest.raises(InputError, match="'run_dir' holds half a surrogate pair"):
        load_config(path)
