"""The tokenizers that the tests here share."""

from tests.tokenizers import any_tokenizer, bert, gpt2, llama, make_encoder, metaspace_always, metaspace_first, roberta  # noqa: F401
