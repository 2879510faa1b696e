"""What there is to say of a method."""

import functools
import sys
from typing import Any

import jax

from jaxprompt.errors import InputError
from jaxprompt.methods.base import FROZEN, Method, Start


def listing(method: type[Method], backbone: Any = None, length: int = 20) -> dict[str, Any]:
    """What there is to say of a method: its paper, what is learned, its options, and how many numbers for a backbone.

    Args:
      backbone: with a tokenizer; None: nothing is counted.
      length: soft tokens of the template, or keys per layer.
    """
    fields = method.Options.model_fields
    about = " ".join((sys.modules[method.__module__].__doc__ or "").split())
    found = {"about": about, "learns": method.learns, "options": [name for name in fields if name != "name"]}
    if backbone is None:
        return found
    if any(field.is_required() for field in fields.values()):
        return found
    options = method.Options(**({"length": length} if "length" in fields else {}))
    try:
        made = method.build(options, length if method.fills_slots else 0, backbone)
        start = functools.partial(made.init, start=Start(backbone, ("yes", "no")))
        trainable = jax.eval_shape(start, jax.random.key(0))
    except InputError as error:
        return found | {"refused": str(error)}
    learned = {name: part for name, part in trainable.items() if name != FROZEN}
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (learned, jax.eval_shape(made.apply, trainable))
    ]
    return found | dict(zip(("learned_numbers", "kept_numbers"), sizes, strict=True))
