import sys

import numpy as np
import pytest

from jaxprompt.data.sources import SCHEMES, Reading, Source, memory_reference, open_source, read_rows
from jaxprompt.errors import InputError

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
CSV = "text,label\na,1\nb,0\n"


def package(tmp_path, monkeypatch):
    folder = tmp_path / "a_data_package" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (folder / "x.csv").write_text(CSV)
    monkeypatch.syspath_prepend(tmp_path)
    return "package:a_data_package/data/x.csv"


def file(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(CSV)
    return str(tmp_path / "x.csv")


def memory(tmp_path, monkeypatch):
    return ROWS


@pytest.mark.parametrize("made", [file, package, memory])
def test_a_source_is_a_sequence_of_rows(tmp_path, monkeypatch, made):
    reference = made(tmp_path, monkeypatch)
    source = open_source(reference)
    assert isinstance(source, Source)
    assert source.name == ("rows in memory" if made is memory else reference)
    assert source.label_names is None
    rows = list(source)
    assert rows == read_rows(reference) == [source[0], source[1]]
    assert [(row["text"], int(row["label"])) for row in rows] == [("a", 1), ("b", 0)]
    assert len(source) == 2
    with pytest.raises(IndexError):
        source[2]
    assert source.fingerprint == open_source(reference).fingerprint == open_source(rows).fingerprint
    assert source.fingerprint != open_source(rows[:1]).fingerprint
    with pytest.raises(InputError) as error, source.naming():
        raise InputError("row 1: no")
    assert str(error.value) == f"{source.name}: row 1: no"
    assert "a_data_package" not in sys.modules


def test_rows_in_memory_are_checked_and_copied():
    rows = read_rows(ROWS)
    assert rows == ROWS and rows[0] is not ROWS[0]
    with pytest.raises(InputError, match=r"^row 2 is 'b'"):
        read_rows([{"text": "a"}, "b"])
    with pytest.raises(InputError, match="no rows"):
        read_rows([])
    with pytest.raises(InputError, match="in memory"):
        read_rows(ROWS, Reading(["text"]))
    for rows, says in (
        ([{"a": 1}, {1: 2}], r"^row 2 has the column 1 \(name columns by texts\)$"),
        ([10**5000], r"^row 1 is a value of type int \(give a dictionary"),
        ({"a": 1}, r"^\{'a': 1\} is no list of rows \(give a list of dictionaries"),
        (b"x.csv", "is no list of rows"),
        (3, "^3 is no list of rows"),
    ):
        with pytest.raises(InputError, match=says):
            read_rows(rows)


def test_rows_in_memory_are_kept_as_a_text_that_stands_for_them():
    kept = memory_reference(ROWS)
    assert kept.startswith("memory:") and kept == memory_reference(list(ROWS))
    other = [{**ROWS[0], "label": np.int64(1)}, {**ROWS[1], "extra": np.arange(3), "and": object}]
    assert (
        kept == memory_reference([{**row, "label": np.int64(row["label"])} for row in ROWS]) != memory_reference(other)
    )
    with pytest.raises(InputError, match=f"^'{kept}' was given in memory and not kept: pass the rows again, or name a"):
        open_source(kept)
    itself, deep = {}, {}
    itself["a"], inner = itself, deep
    for _ in range(100_000):
        inner["a"] = inner = {}
    for row in (itself, deep):
        with pytest.raises(InputError, match="nests too deeply, or holds itself"):
            memory_reference([row])


@pytest.mark.parametrize("reference", ["s3://bucket/x.csv", "packge:a/x.csv"])
def test_other_schemes_are_refused(tmp_path, monkeypatch, reference):
    with pytest.raises(
        InputError, match=f"^{reference}: no such file, and rows are not read from '[a-z0-9]*:' "
    ) as error:
        read_rows(reference)
    assert "\n" not in str(error.value)
    # A file may be called so.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packge:x.csv").write_text(CSV)
    assert len(read_rows("packge:x.csv")) == 2


def test_columns_name_those_of_a_file_in_a_package(tmp_path, monkeypatch):
    assert read_rows(package(tmp_path, monkeypatch), Reading(["a", "b"]))[0] == {"a": "text", "b": "label"}
    assert set(SCHEMES) == {"hf", "package", "parallel", "tfds", "memory"}
