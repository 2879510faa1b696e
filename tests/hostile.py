"""Files that ask a reader for more than they hold: each is refused within seconds, in one line, and for little memory.

    python -m tests.hostile

One process reads them all, one after the other; a line of JSON for each. `tests/test_hostile.py` looks at the lines.
"""

import gzip
import json
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zstandard

from jaxprompt.config import load_config
from jaxprompt.data.sources import read_rows
from jaxprompt.errors import InputError
from jaxprompt.prompts import load_prompt
from jaxprompt.weights.files import open_files
from jaxprompt.weights.gguf_file import open_gguf
from jaxprompt.weights.safetensors_file import open_tensors
from jaxprompt.weights.tokenizer import read_tokenizer
from tests.memory import status_bytes

STORIES = Path(__file__).parent / "golden" / "stories260K"
MB = 1 << 20
Write = Callable[[Path], object]


def safetensors(header: bytes | dict, size: int | None = None) -> Write:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(data) if size is None else size) + data + bytes(16))


def entry(shape: list, end: int = 16, kind: str = "F32") -> dict:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


def gguf(*numbers: int, rest: bytes = b"") -> Write:
    """Of version 3, with counts of tensors and settings."""
    return lambda path: path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *numbers) + rest)


def npy(header: str) -> Write:
    text = header.encode() + b"\n"
    return lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64))


def text(content: str | bytes) -> Write:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def setting(kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + value


NESTED = 10 * MB * b"["
ARRAYS = b"".join(struct.pack("<IQ", 9, 1) for _ in range(200_000))
BOMB = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '0'] * 10)}]" for n in range(9)) + "\nmodel: *a8\n"
SAFETENSORS = {
    "a header of more than there is": safetensors(b"{}", 1 << 62),
    "a header of a hundred nested megabytes": safetensors(NESTED),
    "sizes whose product is none": safetensors(entry([1 << 62, 1 << 62])),
    "sizes of no bytes": safetensors(entry([0, 1 << 62], 0)),
    "negative sizes": safetensors(entry([-1, -4])),
    "an end before the start": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}),
    "an end far away": safetensors(entry([1 << 40], 1 << 42)),
    "numbers of a million digits": safetensors(b'{"a": {"dtype": "F32", "shape": [' + MB * b"9" + b"]}}"),
    "a million arrays in one place": safetensors({f"a{n}": entry([4])["a"] for n in range(100_000)}),
}
GGUF = {
    "more tensors than bytes": gguf(1 << 60, 0),
    "more settings than bytes": gguf(0, 1 << 60),
    "a text that is longer than the file": gguf(0, 1, rest=setting(8, struct.pack("<Q", 1 << 60))),
    "an array that is longer than the file": gguf(0, 1, rest=setting(9, struct.pack("<IQ", 4, 1 << 60))),
    "arrays of arrays of arrays": gguf(0, 1, rest=setting(9, ARRAYS)),
    "a tensor of many axes": gguf(1, 0, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<I", 1 << 31)),
    "sizes whose product is none": gguf(
        1, 0, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 1 << 62, 1 << 62, 0, 0)
    ),
}
CONFIG = {
    "aliases of aliases": text(BOMB),
    "ten nested megabytes": text(NESTED),
    "a key of ten megabytes": text("a" * 10 * MB + ": 1\n"),
    "a number of a million digits": text("model: m\ntrain: {steps: " + "9" * MB + "}\n"),
}
ROWS = {
    "a line of ten nested megabytes": text(NESTED),
    "a number of ten million digits": text(b'{"text": ' + 10 * MB * b"9" + b"}\n"),
    "NULs": text(10 * MB * b"\0"),
    "bytes that are no text": text(b'{"text": "' + 10 * MB * b"\xff" + b'"}\n'),
    "a line without an end": text(b'{"text": "' + 10 * MB * b"a"),
}
# Two gigabytes of rows in two megabytes: one packed file behind the other.
LINES = b'{"text": "aaaaaaaaaaaaaaaaaaaaa"}\n' * (MB // 2)
TOKENIZER = {
    "ten nested megabytes": text(NESTED),
    "a pattern that never ends": text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {"type": "Replace", "pattern": {"Regex": "(a|aa)+" * 2000 + "("}, "content": ""},
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
            }
        )
    ),
    "an id that no table has": text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": {"a": 1 << 40}, "unk_token": "a"},
            }
        )
    ),
}
PROMPT = {
    "an array that is larger than the file": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 64)}"
    ),
    "an array of Python's objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4)}"),
    "a header that is a program": npy("__import__('os').system('true')"),
    "a header of nested brackets": npy("(" * 60_000),
}
INDEX = {
    f"shard {shard[:20]!r}": text(json.dumps({"weight_map": {"a": shard}}))
    for shard in ("../../../../etc/passwd", "/etc/passwd", "a\0b", "", ".", "x" * 5000, "a/../../b.safetensors")
} | {"ten nested megabytes": text(NESTED)}
ADAPTER = {
    "ten nested megabytes": text(NESTED),
    "a kind of ten megabytes": text(json.dumps({"peft_type": "A" * 10 * MB})),
    "a list": text("[]"),
}


def in_model(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Reads the folder of a model in which the file stands, in place of the one that was there."""

    def read_folder(path: Path) -> object:
        for other in STORIES.iterdir():
            if other.name not in (path.name, path.name.removesuffix(".index.json")):
                shutil.copy(other, path.parent)
        return read(path.parent)

    return read_folder


# Kinds of files: names, what is in them, and what reads one.
KINDS = [
    ("x.safetensors", SAFETENSORS, open_tensors),
    ("prompt.safetensors", SAFETENSORS, load_prompt),
    ("x.gguf", GGUF, open_gguf),
    ("x.yaml", CONFIG, load_config),
    *((f"x.{suffix}", ROWS, read_rows) for suffix in ("jsonl", "csv", "tsv", "parquet", "jsonl.gz")),
    *(
        (f"x.jsonl.{suffix}", {"two gigabytes in two megabytes": text(128 * pack(LINES))}, read_rows)
        for suffix, pack in (("gz", gzip.compress), ("zst", zstandard.compress))
    ),
    ("tokenizer.json", TOKENIZER, in_model(read_tokenizer)),
    ("x.npy", PROMPT, load_prompt),
    ("model.safetensors.index.json", INDEX, in_model(open_files)),
    ("adapter_config.json", ADAPTER, lambda path: load_prompt(path.parent)),
]


def measure(path: Path, write: Write, read: Callable[[Path], object], idle: int) -> dict:
    """What is said of a file, after how many seconds and at how many megabytes over the idle process."""
    write(path)
    begun, said = time.perf_counter(), None
    try:
        read(path)
    except InputError as error:
        said = str(error)
    except BaseException as error:  # what no reader should raise
        said = f"traceback:\n{type(error).__name__}: {str(error)[:300]}"
    return {"said": said, "seconds": time.perf_counter() - begun, "megabytes": (status_bytes("VmHWM") - idle) / MB}


def main() -> None:
    # Not of `getrusage`, which begins with the memory of the process that started this one.
    idle = status_bytes("VmHWM")
    for file, contents, read in KINDS:
        for name, write in contents.items():
            with tempfile.TemporaryDirectory() as folder:
                print(
                    json.dumps({"name": f"{file}: {name}", **measure(Path(folder, file), write, read, idle)}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
