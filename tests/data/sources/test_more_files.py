"""Packed files, lines, patterns, parallel text, SQuAD's JSON, several files as one; each against what went in."""

import gzip
import json
import random

import pytest

from jaxprompt.data.sources import Reading, open_source, read_rows
from jaxprompt.errors import InputError

ROWS = [{"text": 'good, "really"', "label": "1"}, {"text": "schlecht für ü", "label": "0"}]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_packed_files(tmp_path, kind, suffix):
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "csv": 'text,label\n"good, ""really""",1\nschlecht für ü,0\n',
        "txt": "one line\n\nschlecht für ü\n",
    }[suffix]
    pack = gzip.compress if kind == "gz" else pytest.importorskip("zstandard").compress
    packed = pack(text.encode())
    want = [{"text": "one line"}, {"text": "schlecht für ü"}] if suffix == "txt" else ROWS
    assert read_rows(write(tmp_path / f"x.{suffix}.{kind}", packed)) == want
    for cut in (3, len(packed) // 2, len(packed) - 3):
        with pytest.raises(
            InputError, match=r"is no whole (gzip|Zstandard) file|the file is empty|not JSON|quote|values for"
        ) as error:
            read_rows(write(tmp_path / f"y.{suffix}.{kind}", packed[:cut]))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_packed_files_one_behind_the_other(tmp_path, kind):
    # Words at random, so that no file is packed into a few bytes.
    rng = random.Random(0)
    rows = [{"text": f"{rng.random()}"} for _ in range(3000)]
    pack = gzip.compress if kind == "gz" else pytest.importorskip("zstandard").compress
    text = [json.dumps(row).encode() + b"\n" for row in rows]
    packed = b"".join(pack(b"".join(text[start : start + 700])) for start in range(0, 3000, 700))
    assert len(packed) > 20_000
    assert read_rows(write(tmp_path / f"x.jsonl.{kind}", packed)) == rows


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_file_that_fills_the_memory_is_refused(tmp_path, kind):
    pack = gzip.compress if kind == "gz" else pytest.importorskip("zstandard").compress
    bomb = pack(b'{"text": "a"}\n' * (1 << 20)) * 20
    with pytest.raises(InputError, match=r"x.jsonl.*: its first .* bytes unpack to .*, as no text does \(unpack it"):
        read_rows(write(tmp_path / f"x.jsonl.{kind}", bomb))


def test_quotes_are_as_they_are_said_to_be(tmp_path):
    tsv = write(tmp_path / "x.tsv", 'text\tlabel\n"a ""b"""\t1\n')
    assert read_rows(tsv, Reading(quotes=True)) == [{"text": 'a "b"', "label": "1"}]
    assert read_rows(tsv, Reading(quotes=False)) == [{"text": '"a ""b"""', "label": "1"}]
    csv = write(tmp_path / "x.csv", 'text,label\n"a",1\n')
    assert read_rows(csv, Reading(quotes=False)) == [{"text": '"a"', "label": "1"}]


def test_encodings(tmp_path):
    latin = write(tmp_path / "x.txt", "für".encode("latin-1"))
    assert read_rows(latin, Reading(encoding="latin-1")) == [{"text": "für"}]
    wide = write(tmp_path / "x.csv", "text\nfür\n".encode("utf-16"))
    assert read_rows(wide, Reading(encoding="utf-16")) == [{"text": "für"}]
    for encoding, message in (
        ("utf-8", "byte 0xfc is not UTF-8"),
        ("ascii", "not ascii"),
        ("klingon", "which is none"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(latin, Reading(encoding=encoding))


def test_a_pattern_makes_columns_of_lines(tmp_path):
    path = write(tmp_path / "train.label", "DESC:manner How did it ?\nHUM:ind Who ?\r\n\n")
    how = Reading(pattern=r"(?P<label>\w+):(?P<sub>\S+) (?P<text>.*)")
    assert read_rows(path, how) == [
        {"label": "DESC", "sub": "manner", "text": "How did it ?"},
        {"label": "HUM", "sub": "ind", "text": "Who ?"},
    ]
    for pattern, message in (
        (r"(?P<label>\d+) .*", r"train.label:1: data.pattern does not match 'DESC:manner"),
        (r"(\w+)", "names no group"),
        (r"(?P<a>", "is no regular expression"),
    ):
        with pytest.raises(InputError, match=message):
            read_rows(path, Reading(pattern=pattern))


def test_parallel_text(tmp_path):
    write(tmp_path / "t.en", "one\ntwo\n")
    write(tmp_path / "t.de", "eins\nzwei")
    reference = f"parallel:{tmp_path}/t.{{en,de}}"
    assert read_rows(reference) == [{"en": "one", "de": "eins"}, {"en": "two", "de": "zwei"}]
    write(tmp_path / "t.de", "eins\nzwei\ndrei\n")
    with pytest.raises(InputError, match=r"t.en has 2 lines, .*t.de has 3 lines"):
        read_rows(reference)
    with pytest.raises(InputError, match="expected such as"):
        read_rows(f"parallel:{tmp_path}/t.en")
    with pytest.raises(InputError, match="no such file"):
        read_rows(f"parallel:{tmp_path}/u.{{en,de}}")


def test_squads_json(tmp_path):
    question = {
        "id": "q",
        "question": "Who?",
        "answers": [{"text": "He", "answer_start": 3}, {"text": "him", "answer_start": 9}],
    }
    squad = {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "It is He.", "qas": [question]}]}]}
    path = write(tmp_path / "x.json", json.dumps(squad))
    assert read_rows(path) == [
        {
            "id": "q",
            "title": "T",
            "context": "It is He.",
            "question": "Who?",
            "answers": ["He", "him"],
            "is_impossible": False,
        }
    ]
    del question["answers"]
    with pytest.raises(InputError, match=r"article 1 has no 'answers'"):
        read_rows(write(tmp_path / "x.json", json.dumps(squad)))


def test_several_files_are_one(tmp_path):
    for number in range(3):
        write(tmp_path / f"part-{number}.jsonl", json.dumps({"n": number}) + "\n")
    want = [{"n": 0}, {"n": 1}, {"n": 2}]
    assert read_rows(str(tmp_path / "part-*.jsonl")) == want
    assert read_rows([str(tmp_path / f"part-{number}.jsonl") for number in range(3)]) == want
    # A file may have such a name.
    odd = write(tmp_path / "a[1].jsonl", '{"n": 9}')
    assert read_rows(str(odd)) == [{"n": 9}]
    with pytest.raises(InputError, match=r"part-\*.csv: no file matches"):
        open_source(str(tmp_path / "part-*.csv"))
    write(tmp_path / "part-3.jsonl", "{")
    with pytest.raises(InputError, match=r"part-3.jsonl:1: not JSON"):
        read_rows(str(tmp_path / "part-*.jsonl"))
