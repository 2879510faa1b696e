"""Feeds the readers of binary files with bytes that libFuzzer chooses by what they reach, and wants nothing but InputErrors.

    pip install atheris
    python -m tests.fuzz gguf -max_total_time=600

The readers: safetensors, gguf, npy, prompt. What crashes one is kept in the working directory; further options are libFuzzer's.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jaxprompt.weights", "jaxprompt.prompts"]):
    from jaxprompt.errors import InputError
    from jaxprompt.prompts import load_prompt
    from jaxprompt.weights.gguf_file import open_gguf
    from jaxprompt.weights.safetensors_file import open_tensors
from tests.hostile import GGUF, PROMPT, SAFETENSORS

READERS = {
    "safetensors": ("x.safetensors", open_tensors, SAFETENSORS),
    "gguf": ("x.gguf", open_gguf, GGUF),
    "npy": ("x.npy", load_prompt, PROMPT),
    "prompt": ("x.safetensors", load_prompt, SAFETENSORS),
}
# Larger starts only take longer.
LARGEST = 10_000


def main() -> None:
    name, read, starts = READERS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp())
    path, corpus = folder / name, folder / "corpus"
    corpus.mkdir()
    for number, write in enumerate(starts.values()):
        write(corpus / str(number))
        if (corpus / str(number)).stat().st_size > LARGEST:
            (corpus / str(number)).unlink()

    def look(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error), error

    atheris.Setup([*sys.argv, str(corpus)], look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
