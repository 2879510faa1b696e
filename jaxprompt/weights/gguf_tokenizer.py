"""The tokenizer of a GGUF file, as a fast one: its vocabulary, merges, kinds of tokens and chat template.

How text is split is what llama.cpp does for the splitter that a file names (src/llama-vocab.cpp), and so what the model's own
tokenizer did when it was trained.
"""

from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from jaxprompt.errors import InputError
from jaxprompt.weights.gguf_file import GgufFile
from jaxprompt.weights.tokenizer import surround, transformers_package

_CONTROL, _USER_DEFINED = 3, 4
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = rf"{_LETTERS}|\p{{N}}{{1,3}}{_REST}", rf"{_LETTERS}|\p{{N}}{_REST}"
# What a file calls its splitter: a pattern, or GPT-2's own, with or without every digit by itself.
_SPLITTERS = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "olmo", "phi-2", "dbrx-gpt2"), "gpt2"),
    **dict.fromkeys(("smollm", "codeshell", "starcoder", "refact", "command-r"), "digits"),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}
# Those under which a piece that is a token is not merged from smaller ones.
_WHOLE = ("llama3", "llama-v3", "llama-bpe", "falcon3")


def gguf_tokenizer(file: GgufFile) -> Any:
    """Returns the file's tokenizer, a Hugging Face one.

    Raises:
      InputError: a kind of tokenizer or a splitter that is not implemented, or a vocabulary that is damaged.
    """
    try:
        return _made(file)
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from None
    except Exception as error:  # the bare Exception of tokenizers
        raise InputError(
            f"{file.path}: its tokenizer is damaged ({' '.join(str(error).split())[:200]}): download it again"
        ) from None


def _made(file: GgufFile) -> Any:
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items() if "tokenizer." in key}
    tokens, kinds = said.get("tokens"), said.get("token_type")
    if not isinstance(tokens, list) or len(tokens) != len(file.tensors["token_embd.weight"]):
        count = len(tokens) if isinstance(tokens, list) else "no"
        raise InputError(
            f"it has {count} tokens and {len(file.tensors['token_embd.weight'])} embeddings: download it again"
        )
    kinds = kinds if isinstance(kinds, np.ndarray) and len(kinds) == len(tokens) else np.ones(len(tokens), np.int32)
    kind = said.get("model")
    if kind not in ("gpt2", "llama"):
        raise InputError(f"its kind of tokenizer, {str(kind)[:60]!r}, is not implemented (gpt2 and llama are)")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise InputError("it has a token twice: download it again")
    gemma = file.metadata["general.architecture"].startswith("gemma")
    backend = _byte_level(said, vocabulary) if kind == "gpt2" else _sentencepiece(said, vocabulary, gemma)
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [tokens[number] for number in np.flatnonzero(kinds == wanted)]
        # White space of a vocabulary is matched as any other text is, behind the normaliser.
        added = [token for token in added if special or token.strip("▁ \t\n")]
        make = backend.add_special_tokens if special else backend.add_tokens
        make([AddedToken(token, normalized=False, special=special) for token in added])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {role: _token(said, f"{name}_token_id", tokens) for role, name in roles.items()}
    # SentencePiece's own default, which old files do not repeat.
    _surround(backend, named, said.get("add_bos_token", kind == "llama"), said.get("add_eos_token", False))
    template = file.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise InputError(f"tokenizer.chat_template is {str(template)[:60]}, expected a text: use another file")
    made = transformers_package().PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template)
    for role, token in named.items():
        if token is not None:
            setattr(made, f"{role}_token", token)
    return made


def _token(said: dict[str, Any], name: str, tokens: list[str]) -> str | None:
    number = said.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(tokens):
        raise InputError(
            f"tokenizer.ggml.{name} is {str(number)[:30]}, and there are {len(tokens)} tokens: use another file"
        )
    return tokens[number]


def _byte_level(said: dict[str, Any], vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """GPT-2's kind: BPE over bytes, text split before."""
    pairs = [merge.partition(" ")[::2] for merge in said.get("merges") or ()]
    if not pairs:
        raise InputError("it has no merges: download it again")
    name = said.get("pre", "default")
    split = _SPLITTERS.get(name)
    if split is None:
        raise InputError(
            f"its way to split text, {str(name)[:60]!r}, is not implemented (of those: {', '.join(_SPLITTERS)})"
        )
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=name in _WHOLE))
    own = split in ("gpt2", "digits")
    before = [pre_tokenizers.Digits(individual_digits=True)] if split == "digits" else []
    before += [] if own else [pre_tokenizers.Split(Regex(split), behavior="isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)]
    )
    if split is _QWEN2:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(said: dict[str, Any], vocabulary: dict[str, int], gemma: bool) -> tokenizers.Tokenizer:
    """Llama's kind: BPE over characters, with bytes for those that are unknown, and "▁" for a space."""
    if gemma:  # whose runs of spaces are written as such
        vocabulary = {("▁" * len(t) if " " in t and not t.strip(" ") else t): n for t, n in vocabulary.items()}
    scores = said.get("scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary):
        raise InputError("it has no score for each token: download it again")
    # Gemma's scores are not in the order of its merges, its tokens are.
    rank = {token: number if gemma else -float(scores[number]) for token, number in vocabulary.items()}
    unknown = _token(said, "unknown_token_id", list(vocabulary))
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=_merges(rank, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    in_front = not gemma and said.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if in_front else spaces
    if gemma:
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if in_front else [])])
    return backend


def _merges(rank: dict[str, float], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that a vocabulary implies: every way to make a token of two, the best token first."""
    found = []
    for token, value in rank.items():
        ways = [(token[:at], token[at:]) for at in range(1, len(token))]
        ways = [(left, right) for left, right in ways if left in vocabulary and right in vocabulary]
        ways.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(value, pair) for pair in ways]
    found.sort(key=lambda item: item[0])
    return [pair for _, pair in found]


def _surround(backend: tokenizers.Tokenizer, named: dict[str, str | None], bos: bool, eos: bool) -> None:
    """What goes around a text, and around two."""
    first = [named["bos"]] if bos and named["bos"] is not None else []
    last = [named["eos"]] if eos and named["eos"] is not None else []
    if not first and not last:
        return
    second = [f"{piece}:1" for piece in (*first, "$B", *last)]
    surround(backend, [*first, "$A", *last], [*first, "$A", *last, *second])
