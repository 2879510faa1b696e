"""A learned prompt as a value and as one small file."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.types import Prefix

FILE_NAME = "prompt.safetensors"
_SUFFIXES = (".safetensors", ".npy")


@dataclass(frozen=True)
class Prompt:
    """What training learned, with what is needed to use it.

    Attributes:
      method: soft, prefix or none.
      arrays: fp32; `soft [prompt, embed]`, or `keys` and `values [layers, prefix, kv_heads, head_dim]`.
      head: the classification head's arrays, if there is one: `weight [classes, embed]`, `bias [classes]`.
      info: template, objective, labels, backbone reference and fingerprint, and where the text's positions start.
    """

    method: str
    arrays: dict[str, np.ndarray]
    head: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict = field(default_factory=dict)

    @property
    def soft(self) -> np.ndarray | None:
        """The soft prompt `[prompt, embed]`, if that is what was learned."""
        return self.arrays.get("soft")

    @property
    def prefix(self) -> Prefix | None:
        """The learned prefix, if that is what was learned."""
        if self.method != "prefix":
            return None
        return Prefix(self.arrays["keys"], self.arrays["values"], length=self.info["prefix_start"])

    @property
    def source_prefix(self) -> Prefix | None:
        """The learned prefix of the encoder of an encoder-decoder."""
        if "source_keys" not in self.arrays:
            return None
        return Prefix(self.arrays["source_keys"], self.arrays["source_values"], length=0)

    def check(self, backbone) -> None:
        """Raises InputError when the prompt was learned for another backbone."""
        if self.soft is not None and self.soft.shape[-1] != backbone.soft_size:
            raise InputError(
                f"the prompt is {self.soft.shape[-1]} wide, the backbone {backbone.ref!r} takes {backbone.soft_size} "
                f"wide ones: use the backbone it was learned for{self._named()}"
            )
        if self.method == "prefix":
            keys, shape = self.arrays["keys"].shape, backbone.prefix_shape
            if (keys[0], *keys[2:]) != shape or (self.source_prefix is not None) != backbone.seq2seq:
                raise InputError(
                    f"the prefix has layers, heads, head size {(keys[0], *keys[2:])}, the backbone {backbone.ref!r} has "
                    f"{shape}: use the backbone it was learned for{self._named()}"
                )
        known = self.info.get("backbone", {}).get("fingerprint")
        if known and known != backbone.fingerprint:
            raise InputError(
                f"the prompt was learned for another backbone than {backbone.ref!r} (fingerprint {known}, not "
                f"{backbone.fingerprint}): use the backbone it was learned for{self._named()}"
            )

    def _named(self) -> str:
        ref = self.info.get("backbone", {}).get("ref")
        return f", {ref!r}" if ref else ""


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
            if prompt.soft is None:
                raise InputError(
                    f"a {prompt.method} prompt has no single array: save it as .safetensors, not {path.name}"
                )
            with temporary.open("wb") as file:
                np.save(file, np.asarray(prompt.soft, np.float32))
        else:
            arrays = {f"prompt.{k}": v for k, v in prompt.arrays.items()} | {
                f"head.{k}": v for k, v in prompt.head.items()
            }
            arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
            meta = {"method": prompt.method, **prompt.info}
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
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"prompt {str(path)!r} cannot be read ({reason}): save it again from its run") from None
    if not isinstance(meta, dict) or "method" not in meta:
        raise InputError(f"{str(path)!r} is not a prompt that jaxprompt wrote: it lacks the description of the prompt")
    parts = {"prompt": {}, "head": {}}
    for name, array in arrays.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = array
    return Prompt(meta.pop("method"), parts["prompt"], parts["head"], meta)


def _from_array(array: np.ndarray, path: Path) -> Prompt:
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"prompt {str(path)!r} has shape {array.shape} of {array.dtype}: a soft prompt is [P, D] floats"
        )
    return Prompt("soft", {"soft": array.astype(np.float32)})
