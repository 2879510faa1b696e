"""What is wrong with a GGUF file is said at once, whatever it claims of lengths."""

import struct
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from jaxprompt.weights.gguf_file import open_gguf
from tests.weights.gguf_files import write_gguf

TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(61)],
    "tokenizer.ggml.token_type": [1] * 61,
    "tokenizer.ggml.merges": ["t 1"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", "qwen2", tokens=TOKENS).read_bytes()


def read(path):
    """All that is read of a file before its weights."""
    load_backbone(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and so on", "is no GGUF file"),
        (b"GG", "is damaged or truncated"),
        (b"GGUF" + struct.pack("<I", 1), "of version 1"),
        (b"GGUF" + struct.pack(">I", 3), "in big-endian byte order"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "says that 1152921504606846976 tensors follow"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + b"\0" * 16, "is damaged or truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**40), "numbers follow"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 1) + b"\0" * 8,
            "a value of type 9",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 2, 1) + (b"a" + struct.pack("<Ib", 7, 1) + struct.pack("<Q", 1)) * 2,
            "occurs twice",
        ),
    ],
)
def test_a_header_that_is_none(tmp_path, data, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        open_gguf(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_read(tmp_path, whole, data):
    path = tmp_path / "model.gguf"
    header = whole.index(b"output_norm.weight") + 200
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError) as error:
            read(path)
        assert "\n" not in str(error.value)
        return
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        read(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_the_library_that_is_not_installed_is_named(tmp_path, whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r'pip install "jaxprompt\[gguf\]"'):
        open_gguf(path)


def test_a_type_that_is_unknown_is_named(tmp_path, whole):
    path = tmp_path / "model.gguf"
    at = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(whole[:at] + struct.pack("<I", 999) + whole[at + 4 :])
    with pytest.raises(InputError, match=r"tensor 'blk.0.attn_q.weight' has the unknown type 999"):
        open_gguf(path)
