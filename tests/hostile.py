"""Files that ask a reader for more than they hold: each is refused within seconds, in one line, and for little memory.

    python -m tests.hostile

One process reads them all, one after the other; a line of JSON for each. `tests/test_hostile.py` looks at the lines.
"""

import json
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxprompt.config import load_config
from jaxprompt.data.sources import read_rows
from jaxprompt.errors import InputError
from jaxprompt.prompts import load_prompt
from jaxprompt.weights.files import open_files
from jaxprompt.weights.gguf_file import open_gguf
from jaxprompt.weights.safetensors_file import open_tensors
from jaxprompt.weights.tokenizer import read_tokenizer

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


def model_folder(folder: Path, name: str) -> Path:
    """A folder of a model in which one file is to be written."""
    made = folder / "model"
    shutil.copytree(STORIES, made)
    (made / name).unlink(missing_ok=True)
    return made


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names, and what reads a file of the name's kind after it was written to the folder, which is new for each."""
    for name, write in SAFETENSORS.items():
        yield f"safetensors: {name}", lambda: (write(folder / "x.safetensors"), open_tensors(folder / "x.safetensors"))
        yield f"prompt: {name}", lambda: (write(folder / "x.safetensors"), load_prompt(folder / "x.safetensors"))
    for name, write in GGUF.items():
        yield f"gguf: {name}", lambda: (write(folder / "x.gguf"), open_gguf(folder / "x.gguf"))
    for name, write in CONFIG.items():
        yield f"config: {name}", lambda: (write(folder / "x.yaml"), load_config(folder / "x.yaml"))
    for name, write in ROWS.items():
        for suffix in ("jsonl", "csv", "tsv", "parquet", "jsonl.gz"):
            path = folder / f"x.{suffix}"
            yield f"{suffix}: {name}", lambda path=path: (write(path), read_rows(str(path)))
    for name, write in TOKENIZER.items():

        def read_made():
            made = model_folder(folder, "tokenizer.json")
            write(made / "tokenizer.json")
            return read_tokenizer(made)

        yield f"tokenizer: {name}", read_made
    for name, write in PROMPT.items():
        yield f"npy: {name}", lambda: (write(folder / "x.npy"), load_prompt(folder / "x.npy"))
    for name, write in INDEX.items():

        def open_made():
            made = model_folder(folder, "model.safetensors")
            write(made / "model.safetensors.index.json")
            return open_files(made)

        yield f"index: {name}", open_made
    for name, write in ADAPTER.items():

        def load_made():
            write(folder / "adapter_config.json")
            return load_prompt(folder)

        yield f"adapter: {name}", load_made


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        number = 0
        folder = Path(root, "0")
        folder.mkdir()
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name, read in cases(folder):
            begun, said = time.perf_counter(), None
            try:
                read()
            except InputError as error:
                said = str(error)
            except BaseException as error:
                said = f"TRACEBACK {type(error).__name__}: {error}"[:300] + "\n"
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024
            print(json.dumps({"name": name, "said": said, "seconds": time.perf_counter() - begun, "megabytes": more}))
            sys.stdout.flush()
            number += 1
            shutil.rmtree(folder)
            folder.mkdir()


if __name__ == "__main__":
    main()
