"""Prompt files: jaxprompt's own, and google-research/prompt-tuning's plain arrays."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.prompts.prompt import Prompt, from_arrays
from jaxprompt.types import Conditioning

FILE_NAME = "prompt.safetensors"
_SUFFIXES = (".safetensors", ".npy")


def save_prompt(prompt: Prompt, path: str | Path) -> Path:
    """Writes a prompt file, whole or not at all. `path` is a file, or a folder that gets `prompt.safetensors`.

    A path that ends in `.npy` gets the soft prompt's array alone, in the format google-research/prompt-tuning reads.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".npy":
            if prompt.arrays.keys() != {"soft"}:
                held = ", ".join(prompt.arrays) or "nothing"
                raise InputError(f"the prompt holds {held}, no single array: save it as .safetensors, not {path.name}")
            with temporary.open("wb") as file:
                np.save(file, np.asarray(prompt.soft, np.float32))
        else:
            arrays = {f"prompt.{k}": v for k, v in prompt.arrays.items()} | {
                f"head.{k}": v for k, v in prompt.head.items()
            }
            arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
            meta = {**prompt.info, "prefix_start": prompt.prefix.length if prompt.prefix is not None else 0}
            save_file(arrays, temporary, metadata={"jaxprompt": json.dumps(meta, ensure_ascii=False)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_prompt(path: str | Path) -> Prompt:
    """Reads a prompt file, a run folder, or a `.npy` array `[prompt, embed]`, with or without the suffix.

    Raises InputError when it is missing, truncated or something else.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
        if not path.exists():
            raise InputError(f"folder {str(path.parent)!r} holds no {FILE_NAME}: name a finished run or a prompt file")
    if not path.exists():
        near = [p.name for p in path.parent.iterdir() if p.suffix in _SUFFIXES] if path.parent.is_dir() else []
        raise InputError(f"prompt {str(path)!r} does not exist{did_you_mean(path.name, near) if near else ''}")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            return _from_array(np.load(path, allow_pickle=False), path)
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get("jaxprompt", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if not isinstance(meta, dict):
            raise InputError(
                f"{str(path)!r} is not a prompt that jaxprompt wrote: it lacks the description of the prompt"
            )
        parts = {"prompt": {}, "head": {}}
        for name, array in arrays.items():
            part, _, key = name.partition(".")
            parts[part][key] = array
        return Prompt(from_arrays(parts["prompt"], meta.pop("prefix_start", 0)), parts["head"], meta)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"prompt {str(path)!r} cannot be read ({reason}): save it again from its run") from None


def _from_array(array: np.ndarray, path: Path) -> Prompt:
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"prompt {str(path)!r} has shape {array.shape} of {array.dtype}: a soft prompt is [P, D] floats"
        )
    if not np.isfinite(array).all():
        raise InputError(f"prompt {str(path)!r} holds numbers that are not finite: name another prompt")
    return Prompt(Conditioning(soft=array.astype(np.float32)))
