"""What encoding asks of a Hugging Face tokenizer: plain text, text that continues other text, special tokens."""

import dataclasses
import functools
import hashlib
import json
from typing import TYPE_CHECKING

import tokenizers

from jaxprompt.errors import InputError

if TYPE_CHECKING:  # Importing it takes seconds.
    from transformers import PreTrainedTokenizerBase

# Text to tokenise a continuation behind. Several, because a tokenizer may merge one of them with what follows.
ANCHORS = (".", "\n", "a", "的", "1", ")")
# Texts that tokenizers of one vocabulary may still read differently: case, accents, digits, white space, scripts.
PROBES = (
    *("Hello World", " Hello  World ", "hello world", "naïve café", "I'll don't", "2023-10-05 650841823", "a\n\nb\t c"),
    *("的电影很好看", "مرحبا", "😀👍🏽", "x=[1,2];", "</s> [SEP] <|endoftext|>", "ﬁ Ⅳ ½", "A.B.C. U.S.A."),
)


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer whose special tokens are reached by id only: `[SEP]` or `</s>` in a text is ordinary text.

    Attributes:
      tokenizer: the Hugging Face tokenizer, which is left as it is.
      backend: a private copy of its fast part, in which no text is a special token.
      leading, trailing: ids of the special tokens the tokenizer puts around one text.
      pair_types: whether it gives the second text of a pair token type 1, as BERT's does.
    """

    tokenizer: "PreTrainedTokenizerBase"
    backend: tokenizers.Tokenizer
    leading: tuple[int, ...]
    trailing: tuple[int, ...]
    pair_types: bool

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text by itself, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Returns, per token of a text by itself, the characters it covers. Tokens may share a character."""
        return self.backend.encode(text, add_special_tokens=False).offsets

    def continuation(self, text: str) -> list[int]:
        """Returns the ids that a text has behind other text.

        They differ from `encode(text)` in tokenizers that mark the start of a text, such as SentencePiece's, which
        write "▁" before its first word whether or not a space stands there.

        Raises:
          InputError: the tokenizer merges the text with whatever stands before it.
        """
        if not text:
            return []
        for anchor, anchor_ids in self._anchors:
            ids = self.encode(anchor + text)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        raise InputError(f"the tokenizer merges {text!r} with any text before it (start it with a space or a letter)")

    @functools.cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        pairs = [(anchor, self.encode(anchor)) for anchor in ANCHORS]
        return [(anchor, ids) for anchor, ids in pairs if ids and self.tokenizer.unk_token_id not in ids]

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what the tokenizer does: its vocabulary, and the ids of texts that tell tokenizers apart.

        Not of its files, which another release may write otherwise.
        """
        words = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        ids = [self.tokenizer(text)["input_ids"] for text in PROBES]
        return hashlib.sha256(json.dumps([words, ids]).encode()).hexdigest()[:16]

    def special_id(self, name: str) -> int:
        """Returns the id of the "bos", "eos", "cls", "sep" or "mask" token; InputError if there is none."""
        token_id = getattr(self.tokenizer, f"{name}_token_id")
        if token_id is None:
            have = [
                n for n in ("bos", "eos", "cls", "sep", "mask") if getattr(self.tokenizer, f"{n}_token_id") is not None
            ]
            names = ", ".join(f"{{{n}}}" for n in have) or "none"
            raise InputError(f"this tokenizer has no {name} token for {{{name}}} in the template (it has: {names})")
        return token_id

    def strips_before(self, token_id: int) -> bool:
        """Returns whether a special token swallows the white space before it."""
        added = self.tokenizer.added_tokens_decoder.get(token_id)
        return added is not None and added.lstrip

    def starts_anew_after(self, token_id: int) -> bool:
        """Returns whether text behind a special token is tokenised as text by itself."""
        special = self.tokenizer.convert_ids_to_tokens(token_id)
        together = self.tokenizer(special + "x", add_special_tokens=False)["input_ids"]
        return together == [token_id, *self.encode("x")]


def text_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> TextTokenizer:
    """Wraps a Hugging Face tokenizer.

    Raises:
      InputError: it is not a fast one (truncation needs the offsets that only those give).
    """
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} is not a fast tokenizer (save it with a tokenizer.json)")
    backend = _without_special_tokens(tokenizer.backend_tokenizer)
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    around = tokenizer("x")["input_ids"]
    start = next(i for i in range(len(around)) if around[i : i + len(bare)] == bare)
    return TextTokenizer(
        tokenizer,
        backend,
        leading=tuple(around[:start]),
        trailing=tuple(around[start + len(bare) :]),
        pair_types=1 in tokenizer("x", "x").get("token_type_ids", ()),
    )


def _without_special_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that finds no special token in a text, their ids unused.

    `split_special_tokens` is not enough: it keeps them from being looked up, but a Unigram model has `</s>` among
    its pieces, with the best of all scores. So they get names that no text has, which keeps every id.
    """
    state = json.loads(backend.to_str())
    model = state["model"]
    renamed = {}
    for token in state["added_tokens"]:
        if token["special"]:
            # No piece of text has both: white space is replaced or split at before the model sees it.
            renamed[token["content"]] = token["content"] = f"\0 {token['content']}"
    if model["type"] == "Unigram":
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {renamed.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if not renamed.keys() & {*pair, "".join(pair)}]
    copy = tokenizers.Tokenizer.from_str(json.dumps(state))
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy
