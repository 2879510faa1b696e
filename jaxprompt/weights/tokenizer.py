"""Tokenizers: that of a model folder, and one of bytes for models that come without files."""

import os
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from jaxprompt.errors import InputError

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


def _fast_tokenizers() -> tuple[Any, Any]:
    """`AutoTokenizer` and `PreTrainedTokenizerFast`."""
    # Imported here: it takes seconds. It advises everyone without torch to install it, which jaxprompt never needs.
    advice = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    finally:
        os.environ.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS")
        if advice is not None:
            os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = advice
    return AutoTokenizer, PreTrainedTokenizerFast


def read_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer of a model folder; raises InputError if there is none that works."""
    auto, _ = _fast_tokenizers()
    try:
        return auto.from_pretrained(str(folder.resolve()), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Of damaged files: of transformers, of JSON, and the bare Exception of tokenizers.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"no usable tokenizer in {folder} (tokenizer.json is looked for): {reason}") from error


def byte_tokenizer(family: str) -> Any:
    """Returns a tokenizer with a token per byte, behind the special tokens that the family's templates use."""
    special = _SPECIAL[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special.values(), *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special.values()))
    if family in _AROUND:
        single, pair = _AROUND[family]
        named = [(token, vocabulary[token]) for token in special.values()]
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=named)
    _, fast = _fast_tokenizers()
    inputs = ["input_ids", *(["token_type_ids"] if family == "bert" else []), "attention_mask"]
    return fast(tokenizer_object=backend, model_input_names=inputs, **special)
