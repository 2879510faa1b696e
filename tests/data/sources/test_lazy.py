"""Files that are read by number: the same rows and the same errors as of files that are read whole."""

import gzip
import json
import os
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprompt.data.select import SelectedSource, selected
from jaxprompt.data.sources import Reading, open_source, read_rows
from jaxprompt.errors import InputError

LAZY = Reading(lazy=True)
ROWS = [{"text": f"row {number} é\u2028", "label": number % 3, "more": {"list": [number]}} for number in range(50)]
values = st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none()), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(values, min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    st.booleans(),
    st.booleans(),
)
def test_json_lines_are_those_of_the_whole_file(tmp_path, rows, end, last, mark):
    path = tmp_path / "rows.jsonl"
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + (end if last else "")
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode("utf-8", "surrogatepass"))
    try:
        whole = read_rows(path)
    except InputError as error:
        with pytest.raises(InputError) as lazily:
            list(open_source(path, LAZY))
        assert str(lazily.value).split(": byte")[0] == str(error).split(": byte")[0]
        return
    source = open_source(path, LAZY)
    assert list(source) == whole and len(source) == len(rows)
    assert source[len(rows) - 1] == whole[-1]
    with pytest.raises(IndexError):
        source[len(rows)]


def test_a_copy_reads_on_and_other_bytes_have_another_fingerprint(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = open_source(path, LAZY)
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source) == ROWS and copy.fingerprint == source.fingerprint
    path.write_text(path.read_text().replace("row 7", "row 8"))
    assert open_source(path, LAZY).fingerprint != source.fingerprint


def write_lines(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_parquet(path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=8)


@pytest.mark.parametrize(("name", "write"), [("rows.jsonl", write_lines), ("rows.parquet", write_parquet)])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    source = open_source(path, LAZY)
    source.fingerprint  # noqa: B018 (as a run asks for it)
    first, data = source[0], path.read_bytes()
    # In place, and so that all of it can still be read.
    os.utime(path, ns=(1, 1))
    assert (source[0], source[20]) == (first, ROWS[20])
    with path.open("r+b") as file:
        file.write(data.replace(b"row 4", b"row 5"))
    with pytest.raises(InputError, match=rf"{name}: the file was changed while it was read \(put it back and give the"):
        source[40]
    path.write_bytes(data)
    assert source[40] == ROWS[40]
    copy = pickle.loads(pickle.dumps(source))
    path.unlink()
    assert source[48] == ROWS[48]
    with pytest.raises(InputError, match=rf"{name}: .*No such file or directory"):
        copy[48]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n\n{"a": 2\n', "rows.jsonl:3: not JSON"),
        ('{"a": 1}\n5\n', "rows.jsonl:2: 5 is not a row"),
        ('{"a": 1, "a": 2}\n', "rows.jsonl:1: two keys 'a' in one object"),
        ('{"a": 1}\n{"a": "\udcff"}\n', "rows.jsonl:2: byte 0xff is not UTF-8"),
        ("\n \n", "rows.jsonl: no rows (give at least one)"),
        ("", "rows.jsonl: no rows (give at least one)"),
    ],
)
def test_a_line_that_is_no_row_is_named_when_it_is_read(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        list(open_source("rows.jsonl", LAZY))
    assert str(error.value).startswith(message)


def test_parquet_is_read_by_groups_of_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=8)
    source = open_source(path, LAZY)
    assert source.blocks == (0, 8, 16, 24, 32, 40, 48)
    assert list(source) == ROWS == read_rows(path)
    assert [source[number] for number in (49, 0, 25, 48)] == [ROWS[number] for number in (49, 0, 25, 48)]
    assert len(source._held) <= 6
    copy = pickle.loads(pickle.dumps(source))
    assert copy[9] == ROWS[9] and copy.fingerprint == source.fingerprint
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        open_source(path, LAZY)


def test_several_files_are_one_source(tmp_path):
    for name, rows in (("a", ROWS[:20]), ("b", ROWS[20:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for reference in (str(tmp_path / "*.jsonl"), [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]):
        source = open_source(reference, LAZY)
        assert list(source) == ROWS and source[33] == ROWS[33] and len(source) == 50
        assert source.fingerprint != open_source(str(tmp_path / "a.jsonl"), LAZY).fingerprint
    # Packed, there is no way to a row but through those before it.
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    assert list(open_source(str(tmp_path / "c.jsonl.gz"), LAZY)) == ROWS[:1]
    with pytest.raises(InputError, match="reads lines of UTF-8, not latin-1"):
        open_source(str(tmp_path / "a.jsonl"), Reading(lazy=True, encoding="latin-1"))


@pytest.mark.parametrize("where", [{}, {"label": [1, 2]}])
def test_columns_and_choice_of_rows_are_those_of_rows_in_memory(tmp_path, where):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rename = {"first": "more.list[0]"}
    source = SelectedSource(open_source(path, LAZY), rename, where)
    assert list(source) == selected(ROWS, rename, where) == list(pickle.loads(pickle.dumps(source)))
    assert list(SelectedSource(open_source(path, LAZY), rename, where, 7)) == selected(ROWS, rename, where)[:7]
    with pytest.raises(InputError, match=r"rows\.jsonl: no row is left where label is 9"):
        SelectedSource(open_source(path, LAZY), rename, {"label": 9})
    with pytest.raises(InputError, match=r"rows\.jsonl: row 1 has nothing at 'x'"):
        SelectedSource(open_source(path, LAZY), {"y": "x"}, {})[0]
    # The runs that are read together, less what is left out.
    whole = open_source(path, LAZY)
    whole.blocks = (0, 1, 10, 30)
    assert SelectedSource(whole, {}, where).blocks == ((0, 1, 10, 30) if not where else (0, 6, 20))
