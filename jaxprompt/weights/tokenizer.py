"""Tokenizers: that of a model folder, and one of bytes for models that come without files."""

import inspect
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from jaxprompt.errors import InputError
from jaxprompt.weights.json_file import read_json

# Special tokens of each family's byte tokenizer, in the order of their ids: all it has a use for, by Hugging Face's
# role. T5's decoder starts with id 0, its padding.
_SPECIAL = {
    "gpt2": {"eos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "t5": {"pad_token": "<pad>", "eos_token": "</s>"},
    "bert": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
}
# What stands around a text, and around two.
_AROUND = {
    "llama": ("<s> $A", "<s> $A $B"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
}


# Settings that say how a tokenizer behaves, beside its special tokens.
_BEHAVIOUR = ("padding_side", "truncation_side", "clean_up_tokenization_spaces")


def transformers_package() -> Any:
    """The package, imported here since it takes seconds."""
    # It advises everyone without torch to install it, which jaxprompt never needs.
    advice = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        import transformers
    finally:
        os.environ.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS")
        if advice is not None:
            os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = advice
    return transformers


def read_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer of a model folder, a Hugging Face one.

    tokenizer.json is the truth where there is one: its ids, what it puts around a text, the white space its special
    tokens swallow. The files beside it say what the special tokens are for. Without it transformers reads the older
    files.

    Raises:
      InputError: there is none that works.
    """
    try:
        settings, config = (_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
        if (folder / "tokenizer.json").is_file():
            return _of_tokenizer_json(folder, settings, config)
        if "ByT5Tokenizer" in (settings.get("tokenizer_class"), config.get("tokenizer_class")):
            return _byt5_tokenizer(settings.get("extra_ids", 125))
        _check_sentencepiece(folder)
        auto = transformers_package().AutoTokenizer
        made = auto.from_pretrained(str(folder.resolve()), local_files_only=True, trust_remote_code=False)
        _check_files(folder, made)
        return made
    except InputError:
        raise
    except Exception as error:  # Of damaged files: of transformers, of JSON, and the bare Exception of tokenizers.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"no usable tokenizer in {folder} (tokenizer.json is looked for): {reason}") from error


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a model folder has one, without reading it whole."""
    return (folder / "chat_template.jinja").is_file() or bool(
        _json(folder / "tokenizer_config.json").get("chat_template")
    )


def _json(path: Path) -> dict[str, Any]:
    """A file of settings; nothing where there is none."""
    try:
        return read_json(path) if path.exists() else {}
    except InputError as error:
        raise InputError(f"no usable tokenizer in {path.parent}: {error}") from None


def _of_tokenizer_json(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Any:
    # Not the family's class: transformers' classes build a tokenizer of their own from the vocabulary, without the
    # file's splitter and normaliser. (Like transformers 5, this leaves add_bos_token and add_eos_token aside.)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    fast = transformers_package().PreTrainedTokenizerFast
    family = _family_class(settings, config)
    said = {**_json(folder / "special_tokens_map.json"), **settings}
    defaults = inspect.signature(family.__init__).parameters
    named = {
        role: said[role] if role in said else defaults[role].default
        for role in fast.SPECIAL_TOKENS_ATTRIBUTES
        if role in said or role in defaults
    }
    extra = said.get("extra_special_tokens") or said.get("additional_special_tokens") or []
    more = [_name(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
    template = folder / "chat_template.jinja"
    made = fast(
        tokenizer_object=backend,
        model_input_names=said.get("model_input_names") or list(family.model_input_names),
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else said.get("chat_template"),
        **{name: said[name] for name in _BEHAVIOUR if name in said},
    )
    # Not as arguments, which make a special token of an ordinary one, such as a "!" that pads. What tokenizer.json
    # lacks would get a new id, one that the model has no embedding for.
    for role, token in named.items():
        if _has(backend, _name(token)):
            setattr(made, role, _name(token))
    made.extra_special_tokens = [name for name in more if _has(backend, name)]
    return made


def _family_class(settings: dict[str, Any], config: dict[str, Any]) -> type:
    """The class whose defaults hold for what the files leave open: transformers' own, never the folder's code."""
    transformers = transformers_package()
    generic = transformers.PreTrainedTokenizerFast
    of_type = transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES.get(config.get("model_type"))
    for name in (settings.get("tokenizer_class"), config.get("tokenizer_class"), of_type):
        found = getattr(transformers, str(name).removesuffix("Fast"), None)
        if isinstance(found, type) and issubclass(found, generic) and found is not generic:
            return found
    return generic


def _name(token: Any) -> str | None:
    """The name of a special token: files have it as a string or as an object, classes as an AddedToken too."""
    token = token.get("content") if isinstance(token, dict) else token
    return None if token is None else str(token)


def _has(backend: tokenizers.Tokenizer, name: str | None) -> bool:
    return name is not None and backend.token_to_id(name) is not None


def _check_sentencepiece(folder: Path) -> None:
    """Raises InputError where only a SentencePiece model could be read, and what reads those is not installed."""
    # A protocol buffer; files of that name that begin otherwise are tiktoken's.
    found = next((path for path in sorted(folder.glob("*.model")) if path.read_bytes()[:1] == b"\n"), None)
    missing = [name for name in ("sentencepiece", "protobuf") if not _installed(name)]
    if found is not None and missing:
        raise InputError(
            f"no tokenizer.json in {folder}: its {found.name} is read with sentencepiece and protobuf (pip install "
            f"{' '.join(missing)})"
        )


def _check_files(folder: Path, made: Any) -> None:
    """Raises InputError where a file that the tokenizer reads is not there: transformers then makes an empty one."""
    # Gemma's class names none, and reads the model file that its family comes with.
    listed = [name for role, name in type(made).vocab_files_names.items() if role != "tokenizer_file"]
    names = listed or ["tokenizer.model"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"no tokenizer in {folder}: neither tokenizer.json nor {' and '.join(names)} is there whole (fetch the "
            "model's tokenizer files into it)"
        )


def _installed(package: str) -> bool:
    try:
        return find_spec({"protobuf": "google.protobuf"}.get(package, package)) is not None
    except ModuleNotFoundError:  # google
        return False


def _byt5_tokenizer(sentinels: int) -> Any:
    """ByT5's, which needs no files: pad, end and unknown, a token per byte, then sentinels."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    extra = [f"<extra_id_{number}>" for number in range(sentinels)]
    # Byte-level tokenizers write a byte that is no visible character as one from 256 up, in order.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    written = [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]
    backend = _bytes_backend([*special.values(), *written, *extra])
    # A model may write half a character, which ByT5 leaves out.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\ufffd", "")])
    backend.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True) for name in special.values()])
    backend.add_special_tokens(extra)
    surround(backend, *map(str.split, _AROUND["t5"]))
    return transformers_package().PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=extra, **special
    )


def _bytes_backend(vocabulary: list[str]) -> tokenizers.Tokenizer:
    """Finds single bytes in a text; their names and others' in the order of their ids."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def surround(backend: tokenizers.Tokenizer, single: Sequence[str], pair: Sequence[str]) -> None:
    """Puts special tokens around a text, `$A`, and around two, `$A` and `$B`, in which `:1` gives a piece the token type 1."""
    special = [(token, backend.token_to_id(token)) for token in dict.fromkeys(single) if token != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=list(single), pair=list(pair), special_tokens=special)


def byte_tokenizer(family: str) -> Any:
    """Returns a tokenizer with a token per byte, behind the special tokens that the family's templates use."""
    special = _SPECIAL[family]
    backend = _bytes_backend([*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())])
    backend.add_special_tokens(list(special.values()))
    if family in _AROUND:
        surround(backend, *map(str.split, _AROUND[family]))
    inputs = ["input_ids", *(["token_type_ids"] if family == "bert" else []), "attention_mask"]
    return transformers_package().PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **special)
