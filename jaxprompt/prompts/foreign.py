"""Files of other libraries where a prompt of this one is expected: what they are, and what can be done."""

import json
from collections.abc import Iterable
from pathlib import Path

from jaxprompt.errors import InputError, listed
from jaxprompt.text.values import shown

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
# PEFT's name of a soft prompt's array, [P, D], in the adapters of these types; others have it for something else.
_PEFT_ARRAY = "prompt_embeddings"
_PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING")


def peft_adapter(folder: Path) -> InputError:
    """What to say of a folder that holds an adapter of PEFT."""
    kind = _peft_type(folder)
    what = f"{str(folder)!r} holds a PEFT adapter ({shown(kind)}), no prompt of jaxprompt"
    if kind not in _PEFT_TYPES:
        return InputError(
            f"{what}: of PEFT only {' and '.join(_PEFT_TYPES)} can be taken over; learn it with jaxprompt"
        )
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        return InputError(
            f"{what}: save it with PEFT as {_ADAPTER_WEIGHTS}, which this folder lacks, and name it again"
        )
    return InputError(f"{what}: {_as_npy(folder / _ADAPTER_WEIGHTS, _PEFT_ARRAY)}")


def foreign_arrays(path: Path, names: Iterable[str]) -> InputError:
    """What to say of a safetensors file of these arrays that has no description of a prompt."""
    if (path.parent / ADAPTER_CONFIG).is_file():
        return peft_adapter(path.parent)
    what = f"{str(path)!r} is not a prompt that jaxprompt wrote: it lacks the description of the prompt"
    names = list(names)
    # An adapter of PEFT without its configuration, else whatever is there.
    name = _PEFT_ARRAY if _PEFT_ARRAY in names else "NAME"
    return InputError(
        f"{what} and holds {listed(map(shown, names), most=5)}; if one is a soft prompt, {_as_npy(path, name)}"
    )


def _as_npy(path: Path, name: str) -> str:
    load = f"safetensors.numpy.load_file({str(path)!r})[{name!r}]"
    return f"save its array [P, D] by numpy.save('prompt.npy', {load}.astype('float32')), and name prompt.npy"


def _peft_type(folder: Path) -> object:
    try:
        return json.loads((folder / ADAPTER_CONFIG).read_bytes())["peft_type"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return "of an unknown type"
