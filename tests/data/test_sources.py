import builtins
import csv
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprompt.data.sources import read_rows
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


def test_tsv_is_not_quoted(tmp_path):
    path = write(tmp_path, "x.tsv", 'text\tlabel\n"an open quote\t1\r\na "b" c\t0\n')
    assert read_rows(str(path)) == [{"text": '"an open quote', "label": "1"}, {"text": 'a "b" c', "label": "0"}]


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path, "x.tsv", "good\t1\nbad\t0\n")
    assert read_rows(path, ["text", "label"]) == [{"text": "good", "label": "1"}, {"text": "bad", "label": "0"}]


def test_strings_bom_blank_lines_and_big_fields(tmp_path):
    assert read_rows(write(tmp_path, "x.json", '["a", "b"]')) == [{"text": "a"}, {"text": "b"}]
    assert read_rows(write(tmp_path, "x.jsonl", '{"a": 1}\n\n{"a": "\u2028"}\n')) == [{"a": 1}, {"a": "\u2028"}]
    assert read_rows(write(tmp_path, "x.csv", "\ufefftext\n\nhi\n")) == [{"text": "hi"}]
    big = "x" * 300_000
    assert read_rows(write(tmp_path, "y.csv", f"text\n{big}\n")) == [{"text": big}]


def test_rows_in_memory_are_checked_and_copied():
    rows = read_rows(ROWS)
    assert rows == ROWS and rows[0] is not ROWS[0]
    with pytest.raises(InputError, match=r"^row 2 is 'b'"):
        read_rows([{"text": "a"}, "b"])
    with pytest.raises(InputError, match="no rows"):
        read_rows([])
    with pytest.raises(InputError, match="in memory"):
        read_rows(ROWS, ["text"])


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
        ("x.txt", "a", "x.txt: unknown kind of file '.txt'"),
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
        read_rows(write(tmp_path, "x.json", "[]"), ["a"])
