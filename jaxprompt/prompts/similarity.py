"""How near prompts are to each other, by which tasks to start from are found (Vu et al. 2022, arXiv:2110.07904)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxprompt.errors import InputError
from jaxprompt.prompts.prompt import Prompt


def similarity(prompts: Mapping[str, Prompt]) -> Float[np.ndarray, "prompts prompts"]:
    """Returns the cosine of each two prompts' mean rows ("cosine similarity of average tokens").

    Source: the abstract could be read, and the measure's name in the paper's section 3.3; not its formula.

    Raises:
      InputError: fewer than two, one without soft rows, or of another width.
    """
    if len(prompts) < 2:
        raise InputError("one prompt alone is similar to nothing: name two or more")
    widths = {}
    for name, prompt in prompts.items():
        if prompt.soft is None:
            raise InputError(f"{name!r} has no soft rows ({', '.join(prompt.arrays) or 'nothing'}): leave it out")
        widths[name] = prompt.soft.shape[1]
    first = next(iter(widths))
    for name, width in widths.items():
        if width != widths[first]:
            raise InputError(f"{name!r} is {width} wide, {first!r} {widths[first]}: compare prompts of one model")
    means = np.stack([np.asarray(prompt.soft, np.float64).mean(axis=0) for prompt in prompts.values()])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return means @ means.T
