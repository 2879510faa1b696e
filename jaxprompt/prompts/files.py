"""Prompt files: jaxprompt's own, and google-research/prompt-tuning's plain arrays."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.machine.files import whole_file, writing
from jaxprompt.prompts.description import check_description
from jaxprompt.prompts.foreign import ADAPTER_CONFIG, foreign_arrays, peft_adapter
from jaxprompt.prompts.prompt import Prompt, from_arrays
from jaxprompt.text.values import shown
from jaxprompt.types import Conditioning

FILE_NAME = "prompt.safetensors"
_SUFFIXES = (".safetensors", ".npy")


def save_prompt(prompt: Prompt, path: str | Path) -> Path:
    """Writes a prompt file, whole or not at all. `path` is a file, or a folder that gets `prompt.safetensors`.

    A path that ends in `.npy` gets the soft prompt's array alone, in the format google-research/prompt-tuning reads.
    Raises InputError for what could not be loaded again.
    """
    prompt.check_itself()
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if path.suffix == ".npy":
        if prompt.arrays.keys() != {"soft"}:
            held = ", ".join(prompt.arrays) or "nothing"
            raise InputError(f"the prompt holds {held}, no single array: save it as .safetensors, not {path.name}")
        if prompt.soft_layer is not None:
            raise InputError(
                f"the prompt's rows enter ahead of layer {prompt.soft_layer}, which an array cannot say: save it as "
                f".safetensors, not {path.name}"
            )
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(prompt.soft, np.float32))
        data = buffer.getvalue()
    else:
        parts = (("prompt", prompt.arrays), ("head", prompt.head))
        arrays = {
            f"{part}.{name}": np.ascontiguousarray(array, np.float32)
            for part, of in parts
            for name, array in of.items()
        }
        meta = {**prompt.info, "prefix_start": prompt.prefix.length if prompt.prefix is not None else 0}
        if prompt.soft_layer is not None:
            meta["soft_layer"] = prompt.soft_layer
        data = save(arrays, metadata={"jaxprompt": json.dumps(meta, ensure_ascii=False)})
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(data)
    return path


def load_prompt(path: str | Path) -> Prompt:
    """Reads a prompt file, a run folder, or a `.npy` array `[prompt, embed]`, with or without the suffix.

    Raises InputError when it is missing, truncated or something else, or no prompt that could be used.
    """
    path, name = Path(path), f"prompt {shown_path(path)}"
    try:
        path = _file_of(path)
        with path.open("rb") as file:
            magic = file.read(6)
        prompt = _read_npy(path) if magic == b"\x93NUMPY" else _read_safetensors(path)
    except InputError:
        raise
    # Readers of foreign bytes raise what they like: numpy's header, for one, is read by Python's own parser.
    except Exception as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} cannot be read ({reason:.200}): save it again from its run, or name another"
        ) from None
    try:
        prompt.check_itself()
    except InputError as error:
        raise InputError(f"{name}: {error}; save it again from its run, or name another") from None
    return prompt


def shown_path(path: str | Path) -> str:
    """A path in quotes, for messages, however long it is."""
    text = repr(str(path))
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"


def _file_of(path: Path) -> Path:
    """The file that a path means. Raises InputError where there is none, OSError or ValueError for an impossible name."""
    folder = path.is_dir()
    file = path / FILE_NAME if folder else path
    # Unlike `Path.exists` this raises for a name that no file can have, on every Python.
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        if folder and (path / ADAPTER_CONFIG).is_file():
            raise peft_adapter(path) from None
        if folder:
            raise InputError(
                f"folder {str(path)!r} holds no {FILE_NAME}: name a finished run or a prompt file"
            ) from None
        near = [p.name for p in path.parent.iterdir() if p.suffix in _SUFFIXES] if path.parent.is_dir() else []
        remedy = did_you_mean(path.name, near) if near else ": name a prompt file or a run folder"
        raise InputError(f"prompt {str(path)!r} does not exist{remedy}") from None
    if not file.is_file():  # A pipe would be waited for, without end.
        raise InputError(f"prompt {str(file)!r} is no file: name a prompt file or a run folder")
    return file


def _read_npy(path: Path) -> Prompt:
    # Mapped, so that the header's sizes meet the file's before there is memory for them.
    with np.errstate(over="ignore"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"prompt {str(path)!r} has shape {array.shape} of {array.dtype}: a soft prompt is [P, D] floats; save it so"
        )
    return Prompt(Conditioning(soft=_float32(array)))


def _read_safetensors(path: Path) -> Prompt:
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        text = (file.metadata() or {}).get("jaxprompt")
        if text is None:
            raise foreign_arrays(path, names)
        try:
            info = json.loads(text)
        except RecursionError:
            raise ValueError("its description nests too deeply") from None
        try:
            check_description(info)
        except InputError as error:
            raise ValueError(f"its description is wrong: {error}") from None
        parts: dict[str, dict[str, np.ndarray]] = {"prompt": {}, "head": {}}
        for name in names:
            part, _, key = name.partition(".")
            if part not in parts:
                raise ValueError(f"it has the unknown part {shown(name)}")
            parts[part][key] = _float32(file.get_tensor(name))
    start, layer = info.pop("prefix_start", 0), info.pop("soft_layer", None)
    return Prompt(from_arrays(parts["prompt"], start, layer), parts["head"], info)


def _float32(array: np.ndarray) -> np.ndarray:
    """Floats as float32, infinite where they are larger than it can hold; anything else as it is."""
    with np.errstate(over="ignore"):
        return np.array(array, np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
