import builtins
import csv
import gzip
import json
import logging
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprompt.data.sources import Reading, read_rows
from jaxprompt.errors import InputError

ROWS = [{"text": 'a "quoted", text\nof two lines', "label": "1"}, {"text": "好 😀 مرحبا", "label": "0"}]
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
tables = st.lists(st.fixed_dictionaries({"a": values, "b": values}), min_size=1, max_size=4)
anywhere = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@anywhere
@given(tables)
def test_csv_and_jsonl_give_back_what_was_written(tmp_path, rows):
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert read_rows(path) == rows
    path = write(tmp_path, "x.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_rows(path) == rows
    assert read_rows(write(tmp_path, "x.json", json.dumps(rows, indent=2))) == rows


def test_parquet(tmp_path, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet") == ROWS
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_rows(write(tmp_path, "y.parquet", "no"))
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(InputError, match=r"pip install 'jaxprompt\[parquet\]'"):
        read_rows(tmp_path / "x.parquet")


def parquet(table):
    file = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue().to_pybytes()


def test_nested_columns_of_parquet_are_values(tmp_path):
    rows = [{"a": [1, 2], "b": {"x": "y"}, "c": None}, {"a": [], "b": None, "c": 1.5}]
    # A folder's name is no column, as it is of a partitioned data set.
    (tmp_path / "d=1").mkdir()
    assert read_rows(write(tmp_path / "d=1", "x.parquet", parquet(pyarrow.Table.from_pylist(rows)))) == rows


def test_damaged_parquet_is_refused(tmp_path):
    data = parquet(pyarrow.Table.from_pylist(ROWS))
    changed = bytearray(data)
    changed[4:60] = b"\xff" * 56
    for damaged in (b"", data[:4], data[: len(data) // 2], data[:-1], bytes(changed)):
        with pytest.raises(
            InputError, match=r"x\.parquet: not a readable Parquet file: .*\(write it again\)$"
        ) as error:
            read_rows(write(tmp_path, "x.parquet", damaged))
        assert "\n" not in str(error.value)
    for table, says in (
        (pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), "no rows"),
        (pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"]), "two columns 'a'"),
        (pyarrow.table({"a": pyarrow.array([2**60], pyarrow.timestamp("ms"))}), "not a readable Parquet file"),
    ):
        with pytest.raises(InputError, match=rf"x\.parquet: {says}"):
            read_rows(write(tmp_path, "x.parquet", parquet(table)))


def test_tsv_is_not_quoted(tmp_path):
    path = write(tmp_path, "x.tsv", 'text\tlabel\n"an open quote\t1\r\na "b" c\t0\n')
    assert read_rows(str(path)) == [{"text": '"an open quote', "label": "1"}, {"text": 'a "b" c', "label": "0"}]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ('text\tlabel\na\t0\n"he said ""hi"""\t1\n', '"he said ""hi"""'),
        ('"text"\t"label"\n"a"\t1\n', '"text"'),
        # GLUE's own: quotes in a text, and at both of its ends.
        ('text\tlabel\n"" a " b\t1\n"b"\t0\n""\t1\n"""\t1\n"a" and "b"\t1\n', None),
    ],
)
def test_a_tsv_that_a_program_quoted_is_warned_of_once(tmp_path, caplog, content, shown):
    path = write(tmp_path, "x.tsv", content)
    with caplog.at_level(logging.WARNING, "jaxprompt"):
        assert read_rows(path) == read_rows(path)
    expected = [f"{path}: {shown} seems to be quoted"] if shown else []
    assert [message.partition(",")[0] for message in caplog.messages] == [f"{said}" for said in expected]
    assert all("set data.quotes to true" in message for message in caplog.messages)


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path, "x.tsv", "good\t1\nbad\t0\n")
    assert read_rows(path, Reading(["text", "label"])) == [
        {"text": "good", "label": "1"},
        {"text": "bad", "label": "0"},
    ]


def test_strings_bom_blank_lines_and_big_fields(tmp_path):
    assert read_rows(write(tmp_path, "x.json", '["a", "b"]')) == [{"text": "a"}, {"text": "b"}]
    assert read_rows(write(tmp_path, "x.jsonl", '{"a": 1}\n\n{"a": "\u2028"}\n')) == [{"a": 1}, {"a": "\u2028"}]
    assert read_rows(write(tmp_path, "x.csv", "\ufefftext\n\nhi\n")) == [{"text": "hi"}]
    big = "x" * 10_000_000
    assert read_rows(write(tmp_path, "y.csv", f"text\n{big}\n")) == [{"text": big}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n3\n", "x.csv:3: 1 values for 2 columns: a, b"),
        ("x.csv", 'a,b\n"1\n1",2\n3,4,5\n', "x.csv:4: 3 values for 2 columns"),
        ("x.csv", 'a,b\n1,2\n"open,2\n3,4\n', "x.csv:3: unexpected end of data"),
        ("x.csv", "a,a\n1,2\n", "x.csv:1: two columns 'a'"),
        ("x.tsv", "a\tb\n", "x.tsv: only a header"),
        ("x.tsv", " \n", "x.tsv: the file is empty"),
        ("x.jsonl", "", "x.jsonl: the file is empty"),
        ("x.jsonl", '{"a": 1}\n{"a": }\n', "x.jsonl:2: not JSON: Expecting value at column 7"),
        ("x.jsonl", '{"a": 1}\n\n[1]\n', "x.jsonl:3: [1] is not a row"),
        ("x.jsonl", "[" * 100_000, "x.jsonl:1: JSON nested too deeply"),
        ("x.json", '[\n{"a": 1},\n{"a" 1}]', "x.json:3: not JSON"),
        ("x.json", '{"a": 1}', "x.json: holds one dict"),
        ("x.json", "[]", "x.json: no rows"),
        ("x.json", '["a", 3]', "x.json: item 2: 3 is not a row"),
        ("x.csv", b"a,b\n1,2\ncaf\xe9,3\n", "x.csv:3: byte 0xe9 is not UTF-8"),
        ("x.csv", "a,b\n1,2\n3,\0\n", "x.csv:3: a NUL character"),
        ("x.csv", "a,b\n".encode("utf-16"), "x.csv: is UTF-16, not UTF-8 text (set data.encoding to utf-16)"),
        ("x.jsonl", "{}".encode("utf-16-le"), "x.jsonl:1: a NUL character, as in UTF-16"),
        ("x.jsonl", gzip.compress(b"{}", mtime=0), "x.jsonl: is compressed by gzip, not UTF-8 text (unpack it)"),
        ("x.csv", b"PK\3\4\0\0", "x.csv: is a zip archive or a spreadsheet"),
        ("x.json", b"PAR1\0", "x.json: is a Parquet file, not UTF-8 text (name it .parquet)"),
        (
            "x.jsonl",
            '{"a": 1}\n{"a": ' + "9" * 5000 + "}",
            "x.jsonl:2: an integer of thousands of digits (make it a text",
        ),
        ("x.json", '[{"a": "9"},\n{"a": -' + "9" * 5000 + "}]", "x.json:2: an integer of thousands of digits"),
        ("x.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 1}', "x.jsonl:2: two keys 'a' in one object (remove one)"),
        ("x.json", '[{"a": 1}, {"a": 1, "a": 2}]', "x.json: item 2: two keys 'a' in one object"),
        ("x.json", "[" * 100_000, "x.json:1: JSON nested too deeply"),
        ("x.jsonl", '{"a":' * 100_000, "x.jsonl:1: JSON nested too deeply"),
        ("x.jsonl", "[" * 500 + "]" * 500, "x.jsonl:1: [[[...]]] is not a row"),
        ("x.csv", ",".join(f"c{i}" for i in range(50_000)) + "\n1\n", "x.csv:2: 1 values for 50000 columns: c0, c1,"),
        ("x.csv", "a," * 50_000 + "a\n1\n", "x.csv:1: two columns 'a'"),
        (
            "x.tsv",
            'a\tb\n"1\t2"\t3\n',
            "x.tsv:2: 3 values for 2 columns: a, b (set data.quotes to true: a .tsv is read",
        ),
        ("x.text", "a", "x.text: unknown kind of file '.text'"),
        ("x.jsonn", "a", "did you mean '.json"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read_rows(path)
    assert str(error.value).startswith(str(tmp_path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_suggests_the_nearest(tmp_path):
    write(tmp_path, "train.tsv", "a\n1\n")
    with pytest.raises(InputError, match=r"no such file \(did you mean 'train.tsv'\?\)$"):
        read_rows(tmp_path / "trian.tsv")
    with pytest.raises(InputError, match="no folder"):
        read_rows(tmp_path / "nowhere" / "train.tsv")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_rows(tmp_path / "folder.json")
    with pytest.raises(InputError, match="without a header"):
        read_rows(write(tmp_path, "x.json", "[]"), Reading(["a"]))


def test_what_is_no_file_that_can_be_read_is_refused_at_once(tmp_path, monkeypatch):
    write(tmp_path, "x.csv", "a\n1\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "broken.csv").symlink_to("nowhere.csv")
    for path, says in (
        (tmp_path / "pipe.jsonl", "pipe.jsonl: is a pipe or a device (save what it gives to a file)"),
        (tmp_path / "loop.csv", "loop.csv: cannot be read: Too many levels of symbolic links (name another file)"),
        (tmp_path / "broken.csv", "broken.csv: is a link to nowhere.csv, which does not exist (mend the link)"),
        (tmp_path / "x.csv" / "y.csv", "y.csv: no such file, and no folder"),
        (f"{tmp_path}/{'x' * 300}.csv", ".csv: cannot be read: File name too long (name another file)"),
        ("a\0b.csv", "'a\\x00b.csv': has a NUL in its name (name another file)"),
        ("a\nb.csv", "'a\\nb.csv': no such file"),
        ("caf\udce9.csv", "'caf\\udce9.csv': no such file"),
        ("", "the name of a file of rows is empty (name a file)"),
    ):
        with pytest.raises(InputError) as error:
            read_rows(path)
        assert says in str(error.value)
        assert str(error.value).isprintable()

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    # The tests may run as root, who may read everything.
    for function in ("open", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, forbidden)
            with pytest.raises(
                InputError, match=r"x\.csv: cannot be read: Permission denied \(change its permissions\)$"
            ):
                read_rows(tmp_path / "x.csv")


def test_values_that_only_some_columns_may_hold_are_read(tmp_path):
    """What uses them refuses them, naming the row; other columns may hold anything."""
    (row,) = read_rows(
        write(tmp_path, "x.jsonl", '{"a": [1], "b": {"c": 1, "c": 2}, "d": "\\ud800", "e": NaN, "f": 1e999}')
    )
    assert (row["a"], row["b"], row["d"], row["f"]) == ([1], {"c": 2}, "\ud800", float("inf"))
    assert row["e"] != row["e"]
