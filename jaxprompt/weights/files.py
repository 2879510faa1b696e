"""A Hugging Face model folder: its config, and its tensors, opened and not yet read."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.weights.json_file import read_json
from jaxprompt.weights.safetensors_file import open_tensors, type_name

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER = "adapter_config.json"
# What of a tensor goes into the fingerprint: so many blocks of so many bytes, or all of one that is no larger.
_BLOCKS = 256
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The tensors of a folder, opened and not yet read.

    Attributes:
      tensors: stored name -> array over the mapped file; what is used of it is read then.
    """

    folder: Path
    tensors: Mapping[str, np.ndarray]


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json; raises InputError if there is none, or it is malformed."""
    path = folder / "config.json"
    if not os.path.lexists(path):
        if os.path.lexists(folder / _ADAPTER):
            raise InputError(_is_adapter(folder))
        near = sorted((*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")))
        if near:
            raise InputError(
                f"{path} does not exist: name the folder that holds it (did you mean {str(near[0].parent)!r}?)"
            )
    return read_json(path)


def open_files(folder: Path) -> ModelFiles:
    """Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    Raises:
      InputError: no safetensors file, a listed shard or tensor is missing, or a file is damaged.
    """
    if os.path.lexists(folder / _WEIGHTS):
        return ModelFiles(folder, open_tensors(folder / _WEIGHTS))
    if not os.path.lexists(folder / _INDEX):
        raise InputError(_without_weights(folder))
    listed = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise InputError(f"{folder / _INDEX} has no valid 'weight_map': download it again")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(listed.values())):
        if not file or "\0" in file or Path(file).name != file:
            raise InputError(
                f"{folder / _INDEX} names the shard {file!r}: expected a file in the same folder, download it again"
            )
        if not os.path.lexists(folder / file):
            raise InputError(f"{folder / file} does not exist, though the index lists it: download it again")
        tensors.update(open_tensors(folder / file))
    absent = sorted(set(listed) - set(tensors))
    if absent:
        raise InputError(f"{folder / _INDEX} lists {shorten(absent)}, absent from the shards: download them again")
    return ModelFiles(folder, tensors)


def _without_weights(folder: Path) -> str:
    """What to say of a folder with neither weights nor an index under their usual names."""
    if any((folder / name).is_file() for name in _PICKLED):
        return f"{folder} holds pickled weights only, {how_to_convert(str(folder), str(folder))}"
    if os.path.lexists(folder / _ADAPTER):
        return _is_adapter(folder)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    nothing = f"{folder} holds no {_WEIGHTS} and no {_INDEX}"
    if any("-of-" in name for name in others):
        return f"{nothing}, which says what its shards hold ({shorten(others)}): download it too"
    if others:
        return f"{nothing}, but {shorten(others)}: rename the one that is the whole model to {_WEIGHTS}"
    return f"{nothing}: download the model's safetensors files"


def _is_adapter(folder: Path) -> str:
    return (
        f"{folder} holds a PEFT adapter ({_ADAPTER}), not a model: name the folder of its base model, or merge the "
        "adapter into it with PEFT's merge_and_unload() and save that"
    )


def how_to_convert(source: str, folder: str) -> str:
    """Returns what to do about a model whose weights are pickled: the command that writes it to `folder`, converted."""
    code = (
        f"import transformers as t; c = t.AutoConfig.from_pretrained('{source}'); "
        f"getattr(t, c.architectures[0]).from_pretrained('{source}').save_pretrained('{folder}')"
    )
    if folder != source:
        code += f"; t.AutoTokenizer.from_pretrained('{source}').save_pretrained('{folder}')"
    return f'which jaxprompt never loads; convert them where torch is installed: python -c "{code}"'


def shorten(names: list[str], most: int = 4) -> str:
    """Returns `a, b, c, d and 12 more`, in one line whatever the names hold."""
    more = len(names) - most
    shown = [name if name.isprintable() and len(name) < 200 else repr(name[:100]) for name in names[:most]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def fingerprint(files: ModelFiles, config: Any, names: Mapping[str, str]) -> str:
    """Returns 16 hex digits that identify a model, whatever type and mesh it is loaded to.

    Of each tensor it sees 256 blocks of 256 bytes, spread over all of it, or the whole of one that is not larger: a
    change of a tenth of a tensor's rows in one piece changes it for certain, one of every n-th row but for a chance of
    (1 - 1/n)^256, below 1e-24 for n = 5.

    Args:
      config: the translated config.
      names: canonical -> stored name of the weights that count.
    """
    digest = hashlib.sha256(repr(config).encode())
    for canonical, stored in sorted(names.items()):
        tensor = files.tensors[stored]
        digest.update(f"{canonical} {tensor.shape} {type_name(tensor)}".encode())
        # Of one that is packed, as it lies in the file.
        digest.update(_sample(np.ravel(getattr(tensor, "stored", tensor)).view(np.uint8)))
    return digest.hexdigest()[:16]


def _sample(data: np.ndarray) -> np.ndarray:
    """What of a tensor's bytes is hashed: hashing everything would read the model twice."""
    if len(data) <= _BLOCKS * _BLOCK:
        return data
    # One block in each of equal stretches, at a place of its own there: no pattern of rows can lie between all.
    places = np.frombuffer(hashlib.shake_128(b"places").digest(4 * _BLOCKS), "<u4") / 2**32
    starts = ((np.arange(_BLOCKS) + places) * ((len(data) - _BLOCK) / _BLOCKS)).astype(np.int64)
    return np.lib.stride_tricks.sliding_window_view(data, _BLOCK)[starts]
