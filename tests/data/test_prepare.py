"""Rows written as a prepared set are the same rows when they are read."""

import json
import subprocess
import sys

import pytest

from jaxprompt.commands import main
from jaxprompt.data.prepare import prepare
from jaxprompt.data.sources import open_source, read_rows
from jaxprompt.errors import InputError

ROWS = [
    {"text": "好 😀", "n": 3, "x": 0.1, "yes": True, "list": ["a"], "more": {"deep": [1, 2]}},
    {"text": "", "n": -(2**62), "x": 2, "yes": False, "list": [], "more": {"deep": []}},
    {"text": "\n", "n": 0, "x": 1e300, "yes": True, "list": ["b", "c"], "more": {"deep": [3]}},
]


def test_rows_are_the_same_when_they_are_read(tmp_path):
    splits = {"train": open_source(ROWS), "validation": open_source(ROWS[:1])}
    found = prepare(splits, tmp_path / "a set")
    assert found["rows"] == {"train": 3, "validation": 1}
    assert found["columns"]["x"] == "float" and found["columns"]["more"] == {"deep": ["int"]}
    for split, rows in (("train", ROWS), ("validation", ROWS[:1])):
        read = read_rows(f"tfds:{tmp_path}/a set:{split}")
        assert read == rows
        kinds = {"text": str, "n": int, "x": float, "yes": bool, "list": list, "more": dict}
        assert all({name: type(value) for name, value in row.items()} == kinds for row in read)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}, {"b": 1}], "row 2: no column 'a', which others have"),
        ([{"a": 1}, {"a": 1, "b": 2}], "row 2: column 'b', which others have not"),
        ([{"a": None}], "row 1: column 'a' is None"),
        ([{"a": 1}, {"a": "x"}], "row 2: column 'a' is of the kind text, in rows before int"),
        ([{"a": [[1]]}], "row 1: column 'a' is [[1]], a list of lists or objects"),
        ([{"a": [{"b": 1}]}], "a list of lists or objects"),
        ([{"a": 2**63}], "more than 64 bits hold"),
    ],
)
def test_what_a_set_cannot_hold_is_refused_and_nothing_is_left(tmp_path, rows, message):
    with pytest.raises(InputError) as error:
        prepare({"train": open_source(rows)}, tmp_path / "set")
    assert message in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_set_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.SequentialWriter, "close_all", lambda self: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(InputError, match=r"cannot be written: full"):
        prepare({"train": open_source(ROWS)}, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match="is there already"):
        prepare({"train": open_source(ROWS)}, tmp_path / "set")


def test_the_command_joins_files_and_imports_no_tensorflow(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    assert main(["data", "prepare", "a.jsonl", "train=b.jsonl", "test=c.jsonl", "--out", "set"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"tfds:{tmp_path}/set:train  2 rows",
        f"tfds:{tmp_path}/set:test  1 rows",
    ]
    assert [row["text"] for row in read_rows(f"tfds:{tmp_path}/set:train")] == ["a", "b"]
    code = (
        "import sys; from jaxprompt.commands import main; "
        "status = main(['data', 'prepare', 'a.jsonl', '--out', 'other']); "
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert main(["data", "prepare", "d.jsonl", "--out", "third"]) == 2
    assert "d.jsonl: no such file" in capsys.readouterr().err
