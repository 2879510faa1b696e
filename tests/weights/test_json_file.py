import os
from pathlib import Path

import pytest

from tests.weights.folders import refused, with_json


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"a": "\0"}', "Invalid control character"),
        (b"\0\0\0\0", "Expecting value"),
        ('{"a": "é"}'.encode("utf-16"), "byte 0 is not UTF-8"),
        ('{"a": "é"}'.encode("latin-1"), "byte 7 is not UTF-8"),
        (b"", "it is empty"),
        (b"[1]", "it holds a list, expected a JSON object"),
        (b'{"a": {"b": [1, NaN]}}', "'a'['b'][1] is no finite number"),
        (b'{"a": -Infinity}', "'a' is no finite number"),
        (b'{"rope_theta": 1e999}', "'rope_theta' is no finite number"),
    ],
)
def test_json_that_is_none(tmp_path, file, text, message):
    folder = with_json(tmp_path, "gpt2", text, file)
    if "index" in file:
        (folder / "model.safetensors").unlink()
    refused(folder, str(folder / file), message, "again")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors"])
def test_what_stands_in_a_files_place(tmp_path, file):
    path = with_json(tmp_path, "gpt2", b"{}", "generation_config.json") / file
    path.unlink()
    path.mkdir()
    refused(tmp_path, f"{path} is a folder, expected a file: remove it and download")
    path.rmdir()
    path.symlink_to(file)
    refused(tmp_path, f"{path} cannot be read (Too many levels of symbolic links)", "download it again")
    path.unlink()
    path.symlink_to("nowhere")
    refused(tmp_path, f"{path} is a link to a file that does not exist", "download it again")
    path.unlink()
    os.mkfifo(path)
    refused(tmp_path, f"{path} is no ordinary file, expected a file")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_files_that_may_not_be_read(tmp_path, file, monkeypatch):
    folder = with_json(tmp_path, "gpt2", b"{}", "generation_config.json")

    def denied(path, *args, **options):
        if path.name == file:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", denied)
    refused(folder, f"{folder / file} cannot be read (Permission denied): check its permissions")
