"""Several tasks at once, each with a prompt of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax

from jaxprompt.errors import InputError
from jaxprompt.methods.base import Method, Start
from jaxprompt.types import Conditioning

# In the place of a task's name: what several share.
SHARED = "*"


@dataclass(frozen=True)
class PerTask:
    """Learns of every task what its method learns: `{group: {task: ...}}`, `group` being a group of that method.

    What methods share stands under `SHARED`, once.

    Attributes:
      parts: the tasks' methods.
      label_texts: the words of each task's labels, to start from.
      join: makes one conditioning of those of all tasks.
    """

    name: ClassVar[str] = "per_task"
    fills_slots: ClassVar[bool] = False
    learns: ClassVar[str] = "a prompt of each task's own"
    parts: Mapping[str, Method]
    label_texts: Mapping[str, tuple[str, ...]]
    join: Callable[[Sequence[Conditioning], Sequence[str]], Conditioning]
    positions: int = 0

    @property
    def shares(self) -> bool:
        """Whether tasks learn something together."""
        return any(_shared(method) for method in self.parts.values())

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        found: dict[str, dict] = {}
        for task, method in self.parts.items():
            # As each starts alone.
            for group, part in method.init(key, replace(start, label_texts=self.label_texts[task])).items():
                if group in _shared(method):
                    first = found.setdefault(group, {}).setdefault(SHARED, part)
                    _check_alike(first, part, task, method)
                else:
                    found.setdefault(group, {})[task] = part
        return found

    def of(self, task: str, trainable: dict[str, dict]) -> dict[str, Any]:
        """The groups of one task, as its method has them."""
        shared = _shared(self.parts[task])
        own = {group: SHARED if group in shared else task for group in trainable}
        return {group: parts[own[group]] for group, parts in trainable.items() if own[group] in parts}

    def common(self, trainable: dict[str, dict]) -> Conditioning | None:
        """What tasks have learned together, as a prompt by itself; None: nothing that is one."""
        method = next((method for method in self.parts.values() if _shared(method)), None)
        return None if method is None else method.common({group: trainable[group][SHARED] for group in method.shared})

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        found = [method.apply(self.of(task, trainable)) for task, method in self.parts.items()]
        return self.join(found, list(self.parts))


def _shared(method: Method) -> tuple[str, ...]:
    return getattr(method, "shared", ())


def _check_alike(first: Any, part: Any, task: str, method: Method) -> None:
    sizes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (first, part)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"tasks.{task}: method {method.name} shares its prompt, and here it is {sizes[1][0]}, in the tasks before "
            f"{sizes[0][0]}: give all templates as many soft tokens"
        )
