"""The tokenizers that the tests here share."""

from tests.tokenizers import gpt2, llama  # noqa: F401
