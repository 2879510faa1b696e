"""What kind of model a reference names, by its settings and the names of its weights."""

from pathlib import Path
from typing import Any

from jaxprompt.errors import InputError
from jaxprompt.models import EncoderConfig, ModelConfig, Seq2SeqConfig
from jaxprompt.models.families import Family, family_of
from jaxprompt.models.presets import preset
from jaxprompt.weights.files import ModelFiles
from jaxprompt.weights.loader import canonical_names
from jaxprompt.weights.reference import resolve
from jaxprompt.weights.source import ModelSource, open_source

# How a model is spoken to: it continues a text, answers in a chat, fills a mask, gives vectors, or writes what it reads anew.
FORMS = ("causal", "chat", "masked", "encoder", "seq2seq")


def described(source: ModelSource) -> tuple[dict[str, Any], Family, ModelConfig, ModelFiles, dict[str, str]]:
    """A model's settings, its family, what they come to, and its weights by canonical name; none is read.

    Raises InputError for what the family does not have, or files that are damaged.
    """
    try:
        return _described(source)
    except InputError as error:
        # Families do not know whose settings they translate.
        said = str(error)
        if not said.startswith("config.json: "):
            raise
        raise InputError(f"{source.config_file}: {said.removeprefix('config.json: ')}") from None


def _described(source: ModelSource) -> tuple[dict[str, Any], Family, ModelConfig, ModelFiles, dict[str, str]]:
    settings = dict(source.config)
    family = family_of(settings.get("model_type"))
    if source.generation.get("decoder_start_token_id") is not None:
        settings["decoder_start_token_id"] = source.generation["decoder_start_token_id"]
    files = source.files()
    # Compares what is stored twice, of which few files have any: what is a weight decides the config.
    names = canonical_names(files, family)
    return settings, family, family.translate(settings, names.keys()), files, names


def form_of(ref: str | Path | None) -> str:
    """Returns the one of `FORMS` that a model is made for: "chat" where its tokenizer has a chat template.

    Raises InputError for a missing model, or one that is not supported.
    """
    if ref is None:
        raise InputError("config lacks 'model', by which a task chooses its template: name one")
    if str(ref).startswith("random:"):
        config, chat = preset(str(ref).removeprefix("random:"))[1], False
    else:
        source = open_source(resolve(ref))
        config, chat = described(source)[2], source.chat
    if isinstance(config, Seq2SeqConfig):
        return "seq2seq"
    if isinstance(config, EncoderConfig):
        return "encoder" if config.head == "none" else "masked"
    return "chat" if chat else "causal"
