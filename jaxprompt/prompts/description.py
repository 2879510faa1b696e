"""What a prompt says of itself: checked before anything is made of it."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxprompt.errors import InputError
from jaxprompt.text.templates import parse_template
from jaxprompt.text.values import shown


class _Section(BaseModel):
    # Other releases may leave keys out, and have others.
    model_config = ConfigDict(extra="allow", strict=True)


class _Backbone(_Section):
    ref: str | None = None
    fingerprint: str | None = None


class _Objective(_Section):
    type: str


class _Description(_Section):
    method: str | None = None
    template: str | None = None
    objective: _Objective | None = None
    labels: list[str] | None = None
    backbone: _Backbone = _Backbone()
    tokenizer: str | None = None
    max_length: int | None = Field(None, gt=0, lt=2**31)
    prefix_start: int = Field(0, ge=0, lt=2**31)
    soft_layer: int | None = Field(None, gt=0, lt=2**31)


def check_description(info: Any) -> None:
    """Raises InputError for a value of another type or out of range, a template that is none, or what no file can hold."""
    try:
        json.dumps(info, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("the description has half a surrogate pair in a text: leave it out") from None
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            "the description holds what JSON cannot: give texts, numbers, lists and dicts of them"
        ) from None
    try:
        found = _Description.model_validate(info)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the description"
        problem = first["msg"][0].lower() + first["msg"][1:]
        value = "" if first["type"] == "missing" else f" is {shown(first['input'])}"
        raise InputError(f"{key}{value}: {problem}") from None
    if found.template is not None:
        parse_template(found.template)
