"""A population's members: the configs of all combinations of what its keys take."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprompt.config.keys import load_config
from jaxprompt.config.sections import Config
from jaxprompt.config.values import brief
from jaxprompt.errors import InputError

MEMBERS = "members"
# What members may differ in, as far as nothing of another shape comes of it.
_VARIES = re.compile(
    r"seed|seeds\.\w+|optimizer\.(?!name$)\w+(\.\w+)?|method\.(?!(name|parts)$)\w+(\.\w+)?|prompt_length"
)
MAY_VARY = (
    "seed, seeds.*, numbers of optimizer.*, method.init.*, numbers of the method, prompt_length or a prefix's length"
)
# What a folder may well be called.
_PLAIN = re.compile(r"[\w.+-]{1,24}")
_SLOT = re.compile(r"\{soft:\d+\}")


def members_of(config: Config, run_dir: Path | None = None) -> dict[str, Config]:
    """The configs of a population's members by their names, each as a run of its own would have it.

    Args:
      run_dir: the population's folder; default: the config's.

    Raises:
      InputError: a key that members cannot differ in, none or equal values, or what `load_config` raises of one.
    """
    axes = config.population
    for key, values in axes.items():
        if not _VARIES.fullmatch(key):
            raise InputError(f"population has {brief(key)}, which would be another program: it may have {MAY_VARY}")
        if not values or any(value in values[:at] for at, value in enumerate(values)):
            raise InputError(f"population has {brief(key)} with {brief(values)}: give it one or more different values")
    folder = Path(run_dir or config.run_dir or "runs")
    base, found = config.model_copy(update={"population": {}}), {}
    for numbers in itertools.product(*(range(len(values)) for values in axes.values())):
        chosen = {key: axes[key][number] for key, number in zip(axes, numbers, strict=True)}
        name = ",".join(_part(axes, key, number) for key, number in zip(axes, numbers, strict=True))
        member = _of_length(base, chosen.get("prompt_length"))
        found[name] = load_config(member, {**chosen, "run_dir": str(folder / MEMBERS / name)})
    return found


def _part(axes: Mapping[str, list], key: str, number: int) -> str:
    """What a member's name says of a key: its value, or the number of one that no name can hold."""
    last = key.rpartition(".")[2]
    short = key if sum(other.rpartition(".")[2] == last for other in axes) > 1 else last
    value = str(axes[key][number])
    return f"{short}={value if _PLAIN.fullmatch(value) else number}"


def _of_length(config: Config, length: Any) -> Config:
    """The config with a soft slot of so many rows. Raises InputError where there is not one slot to change."""
    if length is None:
        return config
    changed = f"{{soft:{length}}}"
    texts = [config.template] if config.chat is None else [turn.content for turn in config.chat]
    if sum(len(_SLOT.findall(text)) for text in texts) != 1:
        raise InputError("population has prompt_length, which is that of the only {soft:N} of a template: have one")
    texts = [_SLOT.sub(changed, text) for text in texts]
    if config.chat is None:
        return config.model_copy(update={"template": texts[0]})
    turns = [turn.model_copy(update={"content": text}) for turn, text in zip(config.chat, texts, strict=True)]
    return config.model_copy(update={"chat": turns})
