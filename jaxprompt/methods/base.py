"""What a method is: how what is learned becomes what the backbone consumes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax

from jaxprompt.options import Options
from jaxprompt.types import Conditioning

# The group of what a method has and does not learn: no optimizer changes it, and it is checkpointed with the rest.
FROZEN = "frozen"


@dataclass(frozen=True)
class Start:
    """What a method may start from.

    Attributes:
      backbone: with its parameters and tokenizer.
      label_texts: the words or texts of the labels; empty without labels.
    """

    backbone: Any
    label_texts: tuple[str, ...] = ()


class Method(Protocol):
    """A way to condition a frozen backbone. Implementations are frozen dataclasses, one file each.

    Attributes:
      name: what a config calls it.
      Options: its config keys beside `name`.
      fills_slots: whether it fills the template's soft slots; then there must be some, else there may be none.
      learns: what is learned, in a few words.
      positions: how many positions of the backbone it takes from the text.
      with_context, asked: left out by most; gives the method that is made of so many labelled training examples.
      project: left out by most; what becomes of the parameters after each step, `trainable -> trainable`.
      further_loss: left out by most; what is learned by beside the loss of the examples, see `methods/cpt.py`.
      shared: left out by most; the groups of parameters that several tasks learn together, see `methods/multitask.py`.
      reads_text: whether its soft rows depend on the text of each example; left out: they do not.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]]
    fills_slots: ClassVar[bool]
    learns: ClassVar[str]
    positions: int

    @classmethod
    def build(cls, options: Options, soft_length: int, backbone: Any) -> "Method":
        """Returns the method for a template with `soft_length` soft rows and a backbone."""
        ...

    def init(self, key: jax.Array, start: Start) -> dict[str, dict]:
        """Returns the parameters at step 0, fp32, by group; each group may have a learning rate of its own.

        The backbone's parameters may be traced: their shapes are asked for before the weights are there.

        Raises InputError when the start needs something that is not there.
        """
        ...

    def apply(self, trainable: dict[str, dict]) -> Conditioning:
        """Folds the parameters into what the backbone consumes. Pure and differentiable.

        Args:
          trainable: all groups of the run; a method reads its own.
        """
        ...


def reads_text(method: Method) -> bool:
    """Whether a method's soft rows depend on the text of each example, whose tokens must be told from the template's."""
    return getattr(method, "reads_text", False)


def fold(method: Method, trainable: dict[str, dict]) -> Conditioning:
    """What `method.apply` gives, its products of float32 computed as such on every device."""
    with jax.default_matmul_precision("highest"):
        return method.apply(trainable)
