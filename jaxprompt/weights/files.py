"""A Hugging Face model folder: its config, and its tensors, opened and not yet read."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.weights.safetensors_file import open_tensors, type_name

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object; raises InputError if the file is missing or malformed."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: a model folder needs {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The tensors of a folder, opened and not yet read.

    Attributes:
      tensors: stored name -> array over the mapped file; what is used of it is read then.
    """

    folder: Path
    tensors: Mapping[str, np.ndarray]


def open_files(folder: Path) -> ModelFiles:
    """Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    Raises:
      InputError: no safetensors file, a listed shard or tensor is missing, or a file is damaged.
    """
    if (folder / _WEIGHTS).is_file():
        return ModelFiles(folder, _open_file(folder / _WEIGHTS))
    if not (folder / _INDEX).is_file():
        if any((folder / name).is_file() for name in _PICKLED):
            raise InputError(f"{folder} holds pickled weights only, {how_to_convert(str(folder), str(folder))}")
        raise InputError(f"{folder} holds no {_WEIGHTS} and no {_INDEX}: download the model's safetensors files")
    listed = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise InputError(f"{folder / _INDEX} has no valid 'weight_map': download it again")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(listed.values())):
        if Path(file).name != file:
            raise InputError(f"{folder / _INDEX} names the shard {file!r}: expected a file in the same folder")
        tensors.update(_open_file(folder / file))
    absent = sorted(set(listed) - set(tensors))
    if absent:
        raise InputError(f"{folder / _INDEX} lists {shorten(absent)}, absent from the shards: download them again")
    return ModelFiles(folder, tensors)


def how_to_convert(source: str, folder: str) -> str:
    """Returns what to do about a model whose weights are pickled: the command that writes it to `folder`, converted."""
    code = (
        f"import transformers as t; c = t.AutoConfig.from_pretrained('{source}'); "
        f"getattr(t, c.architectures[0]).from_pretrained('{source}').save_pretrained('{folder}')"
    )
    if folder != source:
        code += f"; t.AutoTokenizer.from_pretrained('{source}').save_pretrained('{folder}')"
    return f'which jaxprompt never loads; convert them where torch is installed: python -c "{code}"'


def _open_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path} does not exist, though the index lists it: download it again")
    return open_tensors(path)


def shorten(names: list[str], most: int = 4) -> str:
    """Returns `a, b, c, d and 12 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def fingerprint(files: ModelFiles, config: Any, names: Mapping[str, str]) -> str:
    """Returns 16 hex digits that identify a model, whatever type and mesh it is loaded to.

    Args:
      config: the translated config.
      names: canonical -> stored name of the weights that count.
    """
    digest = hashlib.sha256(repr(config).encode())
    for canonical, stored in sorted(names.items()):
        tensor = files.tensors[stored]
        digest.update(f"{canonical} {tensor.shape} {type_name(tensor)}".encode())
        # Two rows tell fine-tuned siblings apart; hashing everything would read the model twice.
        for row in (0, len(tensor) // 2) if tensor.shape else ():
            digest.update(tensor[row : row + 1].tobytes())
    return digest.hexdigest()[:16]
