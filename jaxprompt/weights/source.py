"""A model's files, whatever they are: a folder of Hugging Face's, or one GGUF file."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprompt.weights.files import ModelFiles, open_files, read_config
from jaxprompt.weights.gguf_file import open_gguf
from jaxprompt.weights.gguf_model import config_of, files_of
from jaxprompt.weights.gguf_tokenizer import gguf_tokenizer
from jaxprompt.weights.json_file import read_json
from jaxprompt.weights.tokenizer import has_chat_template, read_tokenizer


@dataclass(frozen=True)
class ModelSource:
    """What a model is made of, read as far as its settings.

    Attributes:
      config: config.json's settings.
      config_file: where these stand, for messages.
      generation: those of how texts start and end, which may be config.json's.
      generation_file: where these stand, for messages.
      chat: whether the tokenizer has a chat template.
      files: opens the weights.
      tokenizer: reads it.
    """

    config: dict[str, Any]
    config_file: Path
    generation: dict[str, Any]
    generation_file: Path
    chat: bool
    files: Callable[[], ModelFiles]
    tokenizer: Callable[[], Any]


def open_source(path: Path) -> ModelSource:
    """Opens what `reference.resolve` found.

    Raises:
      InputError: its settings are missing or malformed; of a GGUF file, as `open_gguf` and `config_of`.
    """
    if path.is_file():
        file = open_gguf(path)
        config = config_of(file)
        # What ends a text is said as in a file of generation settings, and no other setting is.
        ends = {"eos_token_id": config["eos_token_id"]}
        chat = "tokenizer.chat_template" in file.metadata
        return ModelSource(
            config, path, ends, path, chat, lambda: files_of(file, config), functools.partial(gguf_tokenizer, file)
        )
    config, generation = read_config(path), path / "generation_config.json"
    found = os.path.lexists(generation)
    settings, file = (read_json(generation), generation) if found else (config, path / "config.json")
    return ModelSource(
        config,
        path / "config.json",
        settings,
        file,
        has_chat_template(path),
        functools.partial(open_files, path),
        functools.partial(read_tokenizer, path),
    )
