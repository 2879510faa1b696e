"""Turns of a chat -> template text, by the tokenizer's own chat template."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from jaxprompt.errors import InputError
from jaxprompt.text.templates import (
    Alone,
    Edge,
    Field,
    Hard,
    Mask,
    Soft,
    Special,
    Target,
    Template,
    ToDecoder,
    name_tokens,
    parse_template,
)
from jaxprompt.text.tokens import TextTokenizer, text_tokenizer
from jaxprompt.text.values import shown

if TYPE_CHECKING:  # Importing it takes seconds.
    from transformers import PreTrainedTokenizerBase

# What stands for a placeholder while the turns are laid out: private characters, which no chat template looks for.
_OPEN, _CLOSE = "\ue000", "\ue001"
# White space that no chat template writes of its own.
_EDGE = "\t\v\t"
_STAND_IN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


def parse_turns(turns: Sequence[Mapping[str, str]]) -> list[Template]:
    """The contents of a chat's turns.

    Args:
      turns: `{"role": ..., "content": template text}` each; `{target}` is in the last alone.

    Raises:
      InputError: no turns, a content that is no template, or something in it that has no place in a chat.
    """
    if not turns:
        raise InputError("chat has no turns (give at least one role and content)")
    contents = []
    for number, turn in enumerate(turns, 1):
        content = parse_template(turn["content"])
        for piece, name in ((Mask(), "mask"), (ToDecoder(), "decoder"), (Alone(), "no_special_tokens")):
            if piece in content.pieces:
                raise InputError(f"turn {number} of chat has {{{name}}}, which has no place in one (write a template)")
        if content.has_target and (number < len(turns) or content.pieces[-1] != Target()):
            raise InputError(f"turn {number} of chat has {{target}}, which is the end of the last turn (move it there)")
        contents.append(content)
    return contents


def chat_template(turns: Sequence[Mapping[str, str]], tokenizer: "PreTrainedTokenizerBase", *, ends: bool) -> str:
    """Returns the template text whose ids are those of the tokenizer's own chat template around the same texts.

    Fields at the edge of a turn are trimmed where the chat template trims a turn.

    Args:
      turns: as in `parse_turns`.
      ends: whether the end of the turn is scored behind the target, as it is where text is written.

    Raises:
      InputError: as `parse_turns`; the tokenizer has no chat template, or one that does not take these turns as they are.
    """
    contents, tokens = parse_turns(turns), text_tokenizer(tokenizer)
    if not tokenizer.chat_template:
        raise InputError("this tokenizer has no chat template, which chat needs (write a template in its place)")
    for content in contents:
        name_tokens(content, tokens)  # which names of special tokens in a text it refuses
    pieces = [piece for content in contents for piece in content.pieces]
    tight, trims = _laid_out(turns, contents, tokenizer), _trims(contents, _laid_out(turns, contents, tokenizer, _EDGE))
    placeholders = [at for at, piece in enumerate(pieces) if not isinstance(piece, Hard)]
    if _STAND_IN.findall(tight) != [str(at) for at in placeholders]:
        raise InputError(
            f"this tokenizer's chat template leaves out, repeats or reorders what {_names(turns)} say (write a template in "
            "place of chat)"
        )
    written = iter([_written(pieces[at], *trims.get(at, (False, False))) for at in placeholders])
    parts = [next(written) if stands else _escaped(text, tokens) for stands, text in _split(tight)]
    at = next((i for i, part in enumerate(parts) if part.startswith(("{target}", "{target|"))), None)
    if at is not None:
        parts[at + 1 :] = _end_of_turn("".join(parts[at + 1 :]), tokens) if ends else []
    text = "".join(parts)
    placed = {tokens.vocabulary[name] for name in tokens.special_names if f"{{{name}}}" in text.partition("{target")[0]}
    return text if placed & tokens.surrounding_ids else "{no_special_tokens}" + text


def _laid_out(turns, contents: Sequence[Template], tokenizer, space: str = "") -> str:
    """The chat as the tokenizer writes it, stand-ins for placeholders, with `space` around those at a turn's edge."""
    messages, at = [], 0
    for turn, content in zip(turns, contents, strict=True):
        text = ""
        for number, piece in enumerate(content.pieces):
            stand_in = f"{_OPEN}{at}{_CLOSE}"
            before, behind = (space if number == edge else "" for edge in (0, len(content.pieces) - 1))
            text += piece.text if isinstance(piece, Hard) else f"{before}{stand_in}{behind}"
            at += 1
        messages.append({"role": turn["role"], "content": text})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # whatever a template raises, or its language
        raise InputError(
            f"this tokenizer's chat template does not take {_names(turns)}: {' '.join(str(error).split())[:200]} (change the "
            "turns, or write a template in place of chat)"
        ) from None


def _trims(contents: Sequence[Template], loose: str) -> dict[int, tuple[bool, bool]]:
    """Whether a field or target loses white space ahead of it and behind, by its number among all pieces."""
    found, at = {}, 0
    for content in contents:
        for number, piece in enumerate(content.pieces):
            stand_in = f"{_OPEN}{at}{_CLOSE}"
            left = number == 0 and f"{_EDGE}{stand_in}" not in loose
            right = number == len(content.pieces) - 1 and f"{stand_in}{_EDGE}" not in loose
            if isinstance(piece, Field | Target):
                found[at] = left, right
            at += 1
    return found


def _written(piece: Soft | Field | Special | Target | Edge, left: bool, right: bool) -> str:
    """The text of a placeholder; `left` and `right` say where it is trimmed."""
    if isinstance(piece, Target):
        how = "|trim" if left and right else "|ltrim" if left else "|rtrim" if right else ""
        return f"{{target{how}}}"
    if isinstance(piece, Edge):
        return "{trim}" if piece.start else "{/trim}"
    name = f"soft:{piece.length}" if isinstance(piece, Soft) else piece.name
    return f"{'{trim}' if left else ''}{{{name}}}{'{/trim}' if right else ''}"


def _split(text: str) -> Iterator[tuple[bool, str]]:
    """Stand-ins, and the text between them."""
    end = 0
    for match in _STAND_IN.finditer(text):
        yield False, text[end : match.start()]
        yield True, match.group()
        end = match.end()
    yield False, text[end:]


def _escaped(text: str, tokens: TextTokenizer) -> str:
    """Text in the language of templates: special tokens by name, other braces doubled."""
    names = sorted(tokens.special_names, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return "".join(
        f"{{{part}}}" if part in tokens.special_names else part.replace("{", "{{").replace("}", "}}") for part in parts
    )


def _end_of_turn(behind: str, tokens: TextTokenizer) -> list[str]:
    """What of the text behind the target is written too: up to the special token that ends the turn, if there is one."""
    ends = min((at for name in tokens.special_names if (at := behind.find(f"{{{name}}}")) >= 0), default=len(behind))
    space, end = behind[:ends], behind[ends:].partition("}")[0]
    if space.strip():
        raise InputError(
            f"this tokenizer's chat template writes {shown(space)} behind the last turn, which is no white space (write a "
            "template in place of chat)"
        )
    return [f"{{'{space}'}}" if space and end else "", f"{end}}}" if end else ""]


def _names(turns: Sequence[Mapping[str, str]]) -> str:
    return f"the turns of {', '.join(turn['role'] for turn in turns)}"
