"""A run's changes of weights, put into the weights."""

from pathlib import Path

from jaxprompt.backbone import load_backbone
from jaxprompt.backbone.merge import write_merged
from jaxprompt.errors import InputError
from jaxprompt.prompts import load_prompt


def merge(run: str | Path, out: Path, model: str | None = None) -> dict[str, int]:
    """Writes the model of a run with its changes of weights, as `backbone.merge.write_merged`.

    Args:
      run: a run folder or a prompt file.
      model: where the model is; None: where it was.

    Raises:
      InputError: a prompt that is more than such changes, or was learned for another model.
    """
    prompt = load_prompt(run)
    others = [name for name in (*prompt.arrays, *prompt.head) if not name.startswith("delta.")]
    if others or not prompt.deltas:
        raise InputError(
            f"{str(run)!r} holds {', '.join(others) or 'nothing'}, which no weight can hold: merge a run of "
            "full, lora, ia3, bitfit or norms that has no head"
        )
    ref = model or prompt.info.get("backbone", {}).get("ref")
    if ref is None:
        raise InputError(f"{str(run)!r} does not say which model it is for: give --model")
    prompt.check(load_backbone(ref))
    return write_merged(ref, prompt.deltas, out)
