"""What encoding asks of a Hugging Face tokenizer: plain text, text that continues other text, special tokens."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import tokenizers

from jaxprompt.errors import InputError
from jaxprompt.text.values import check_unicode, shown

if TYPE_CHECKING:  # Importing it takes seconds.
    from transformers import PreTrainedTokenizerBase

# Text to tokenise a continuation behind. Several, because a tokenizer may merge one of them with what follows.
ANCHORS = (".", "\n", "a", "的", "1", ")")
# Special tokens that a template calls by what they are for; any other by its own name, as in `{<|im_start|>}`.
ROLES = ("bos", "eos", "cls", "sep", "mask")
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
      vocab_size: rows of the model's embedding, which no id may exceed; None without a model.
    """

    tokenizer: "PreTrainedTokenizerBase"
    backend: tokenizers.Tokenizer
    leading: tuple[int, ...]
    trailing: tuple[int, ...]
    pair_types: bool
    vocab_size: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text by itself, without special tokens.

        Raises:
          InputError: half a surrogate pair in the text, characters that the tokenizer has no token for at all, or a
            token that the model has no embedding for.
        """
        check_unicode(text, "the text")
        return self.checked(self._plain(text).ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Returns, per token of a text by itself, the characters it covers. Tokens may share a character."""
        return self._plain(text).offsets

    def _plain(self, text: str) -> tokenizers.Encoding:
        try:
            return self.backend.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise _unreadable(text, error) from None

    def checked(self, ids: Sequence[int]) -> Sequence[int]:
        """Returns the ids; raises InputError for one that the model has no embedding for."""
        return ids if self.vocab_size is None else check_ids(ids, self.tokenizer, self.vocab_size)

    def continuation(self, text: str) -> list[int]:
        """Returns the ids that a text has behind other text.

        They differ from `encode(text)` in tokenizers that mark the start of a text, such as SentencePiece's, which
        write "▁" before its first word whether or not a space stands there.

        Raises:
          InputError: as `encode`; or the tokenizer merges the text with whatever stands before it.
        """
        if not text:
            return []
        check_unicode(text, "the text")
        _, encoding, ahead = self._continued(text)
        return self.checked(encoding.ids)[ahead:]

    def continued_offsets(self, text: str) -> list[tuple[int, int]]:
        """Returns, per token of `continuation`, the characters of the text that it covers, as `offsets` does."""
        if not text:
            return []
        anchor, encoding, ahead = self._continued(text)
        return [(start - len(anchor), end - len(anchor)) for start, end in encoding.offsets[ahead:]]

    def _continued(self, text: str) -> tuple[str, tokenizers.Encoding, int]:
        """Returns a text to stand before another, the encoding of both, and how many tokens of it are the former's."""
        for anchor, anchor_ids in self._anchors:
            encoding = self._plain(anchor + text)
            if encoding.ids[: len(anchor_ids)] == anchor_ids:
                return anchor, encoding, len(anchor_ids)
        raise InputError(
            f"the tokenizer merges {shown(text)} with any text before it (start it with a space or a letter)"
        )

    @functools.cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        """Texts that the tokenizer has tokens for, with their ids."""
        return self._known(ANCHORS) or self._known(self.tokenizer.decode([i]) for i in range(len(self.tokenizer)))

    def _known(self, texts: Iterable[str]) -> list[tuple[str, list[int]]]:
        pairs = ((text, _readable(lambda text=text: self._plain(text).ids)) for text in texts)
        unknown = self.tokenizer.unk_token_id
        return list(itertools.islice((pair for pair in pairs if pair[1] and unknown not in pair[1]), len(ANCHORS)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """As `fingerprint` of the tokenizer."""
        return fingerprint(self.tokenizer)

    @functools.cached_property
    def names(self) -> dict[str, int]:
        """The ids of special and other added tokens, by their own names."""
        return {token.content: token_id for token_id, token in self.tokenizer.added_tokens_decoder.items()}

    @functools.cached_property
    def special_names(self) -> frozenset[str]:
        """The names of special tokens, which are found in no text."""
        return _special_names(self.tokenizer)

    @functools.cached_property
    def surrounding_ids(self) -> frozenset[int]:
        """Special tokens of the kind that stands around a text: one placed by hand means that all are."""
        roles = (getattr(self.tokenizer, f"{role}_token_id") for role in ("bos", "eos", "cls", "sep"))
        return frozenset(id_ for id_ in (*roles, *self.leading, *self.trailing) if id_ is not None)

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token's id, by its spelling in the vocabulary."""
        return self.tokenizer.get_vocab()

    def special_id(self, name: str) -> int:
        """Returns the id of the "bos", "eos", "cls", "sep" or "mask" token, or of one by its own name.

        Raises:
          InputError: the tokenizer has none, or the model no embedding for it.
        """
        token_id = getattr(self.tokenizer, f"{name}_token_id") if name in ROLES else self.vocabulary.get(name)
        if token_id is None:
            have = [role for role in ROLES if getattr(self.tokenizer, f"{role}_token_id") is not None]
            names = ", ".join(f"{{{role}}}" for role in have) or "none"
            raise InputError(f"this tokenizer has no {name} token for {{{name}}} in the template (it has: {names})")
        self.checked([token_id])
        return token_id

    def strips_before(self, token_id: int) -> bool:
        """Returns whether a special token swallows the white space before it."""
        added = self.tokenizer.added_tokens_decoder.get(token_id)
        return added is not None and added.lstrip

    def strips_after(self, token_id: int) -> bool:
        """Returns whether a special token swallows the white space behind it."""
        added = self.tokenizer.added_tokens_decoder.get(token_id)
        return added is not None and added.rstrip

    def starts_anew_after(self, token_id: int) -> bool:
        """Returns whether text behind a special token is tokenised as text by itself."""
        special = self.tokenizer.convert_ids_to_tokens(token_id)
        text, ids = next(((text, ids) for text, ids in self._anchors if not text.isspace()), ("", []))
        return self.tokenizer(special + text, add_special_tokens=False)["input_ids"] == [token_id, *ids]


def text_tokenizer(tokenizer: "PreTrainedTokenizerBase", vocab_size: int | None = None) -> TextTokenizer:
    """Wraps a Hugging Face tokenizer for a model with `vocab_size` embeddings.

    Raises:
      InputError: it is not a fast one (truncation needs the offsets that only those give), or the model has no
        embedding for the special tokens around a text.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} is not a fast tokenizer (save it with a tokenizer.json)")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    one, two = _around(state)
    at = one.sequence_ids.index(0)
    made = TextTokenizer(
        tokenizer,
        _without_special_tokens(state, _special_names(tokenizer)),
        leading=tuple(one.ids[:at]),
        trailing=tuple(one.ids[at + 1 :]),
        pair_types="token_type_ids" in tokenizer.model_input_names and 1 in two.type_ids,
        vocab_size=vocab_size,
    )
    made.checked([*made.leading, *made.trailing])
    return made


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """16 hex digits of what a tokenizer does: its vocabulary, and the ids of texts that tell tokenizers apart.

    Not of its files, which another release may write otherwise.
    """
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    ids = [_readable(lambda text=text: whole_ids(tokenizer, text, "a text")) for text in PROBES]
    return hashlib.sha256(json.dumps([words, ids]).encode()).hexdigest()[:16]


def whole_ids(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    name: str,
    vocab_size: int | None = None,
    *,
    special_tokens: bool = True,
) -> list[int]:
    """Returns the ids that a tokenizer itself has for a text, in which special tokens are found by name.

    Args:
      name: what the text is, for messages.
      vocab_size: the model's embeddings; None: they are not looked at.
      special_tokens: whether the tokenizer's own go around it.

    Raises:
      InputError: as `TextTokenizer.encode`.
    """
    check_unicode(text, name)
    try:
        ids = tokenizer(text, add_special_tokens=special_tokens)["input_ids"]
    except BaseException as error:
        raise _unreadable(text, error) from None
    return ids if vocab_size is None else check_ids(ids, tokenizer, vocab_size, f"{name}: ")


def _unreadable(text: str, error: BaseException) -> BaseException:
    """What to raise where a tokenizer fails on a text: its own errors are bare Exceptions, and panics not even that."""
    if type(error).__name__ == "PanicException":
        return InputError(f"the tokenizer cannot read {shown(text)}, {len(text)} characters (shorten it)")
    if type(error) is Exception:
        reason = " ".join(str(error).split())
        return InputError(
            f"the tokenizer cannot read {shown(text)}: {reason} (leave out characters that it has no token for)"
        )
    return error


def _readable(ids: Callable[[], list[int]]) -> list[int] | None:
    """The ids of a text that a tokenizer can read, else None."""
    try:
        return ids()
    except InputError:
        return None


def check_ids(
    ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase", vocab_size: int, name: str = ""
) -> Sequence[int]:
    """Returns token ids; raises InputError, with the name in front, for one that the model has no embedding for.

    Args:
      vocab_size: the model's embeddings.
    """
    if ids and max(ids) >= vocab_size:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise InputError(
            f"{name}token {token!r} has the id {max(ids)}, but the model has {vocab_size} embeddings (use the model's own "
            "tokenizer)"
        )
    return ids


def _around(state: dict) -> tuple[tokenizers.Encoding, tokenizers.Encoding]:
    """What a tokenizer puts around one text and around two, each of a single token.

    By a copy that knows one word, since there may be no text that all tokenizers have a token for.
    """
    bare = dict.fromkeys(("normalizer", "pre_tokenizer", "decoder", "truncation", "padding"))
    word = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}
    copy = tokenizers.Tokenizer.from_str(json.dumps({**state, **bare, "added_tokens": [], "model": word}))
    return copy.encode("x"), copy.encode("x", "x")


def looks_special(name: str) -> bool:
    """Whether a token is spelled as special ones are, `<|end|>`, `[SEP]` or `en_XX`, and not as a piece of text."""
    framed = not any(end.isalnum() or end.isspace() for end in (name[:1], name[-1:]))
    joined = "_" in name and name.replace("_", "").isalnum()
    return joined or (framed and any(map(str.isalnum, name)))


def _special_names(tokenizer: "PreTrainedTokenizerBase") -> frozenset[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # What an ordinary token is used for, such as a "!" that pads, does not make it special.
    return frozenset({*added, *filter(looks_special, tokenizer.all_special_tokens)})


def _without_special_tokens(state: dict, names: frozenset[str]) -> tokenizers.Tokenizer:
    """A copy that finds no special token in a text, their ids unused.

    `split_special_tokens` is not enough: it keeps them from being looked up, but a Unigram model has `</s>` among
    its pieces, with the best of all scores. So they get names that no text has, which keeps every id.
    """
    model = state["model"]
    # No piece of text has both: white space is replaced or split at before the model sees it.
    renamed = {name: f"\0 {name}" for name in names}
    for token in state["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
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
