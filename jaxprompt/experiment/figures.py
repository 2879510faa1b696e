"""Which figures an evaluation gives, and which of them chooses the best prompt."""

from dataclasses import dataclass
from typing import Any

from jaxprompt.config import Config
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.metrics import Metric, TextMetric
from jaxprompt.objectives import Objective


@dataclass(frozen=True)
class Figures:
    """The figures of a run.

    Attributes:
      outputs: of what the objective puts out; every evaluation has them.
      texts: of what is written, which takes long: the end of a run has them, and every evaluation if one of them chooses.
      first: the name of the figure that chooses the best prompt.
    """

    outputs: tuple[Metric, ...]
    texts: tuple[TextMetric, ...]
    first: str

    @property
    def writes(self) -> bool:
        """Whether every evaluation has to write."""
        return self.first in {metric.name for metric in self.texts}

    def quality(self, scores: dict[str, Any]) -> tuple[float, ...]:
        """What evaluations are compared by: the chosen figure, then the loss; higher is better."""
        higher = {metric.name: metric.higher_is_better for metric in (*self.texts, *self.outputs)}
        return tuple(scores[name] if higher[name] else -scores[name] for name in (self.first, "loss"))


def figures_of(config: Config, objective: Objective) -> Figures:
    """The figures that a config asks for.

    Raises:
      InputError: one that the objective does not have, one that chooses nothing, or a library that is not installed.
    """
    own, more = objective.metrics, objective.more_metrics
    texts = {metric.name: metric for metric in objective.text_metrics}
    known = {**texts, **{metric.name: metric for metric in (*own, *more)}}
    asked = dict.fromkeys([*config.evaluation.metrics, *([] if config.train.metric is None else [config.train.metric])])
    for name in asked:
        if name not in known:
            key = "train.metric is" if name == config.train.metric else "evaluation.metrics has"
            raise InputError(f"{key} {name!r}: {objective.name} has the figures {', '.join(known)}{_hint(name, known)}")
    choosing = [
        name for name in config.evaluation.metrics if name not in texts and known[name].higher_is_better is not None
    ]
    first = config.train.metric or (choosing or [own[0].name])[0]
    if first not in texts and known[first].higher_is_better is None:
        raise InputError(f"train.metric is {first!r}, a count, by which no prompt is better: name another figure")
    wanted = tuple(texts[name] for name in asked if name in texts)
    for metric in wanted:
        metric.check()
    return Figures((*own, *(metric for metric in more if metric.name in asked)), wanted, first)


def _hint(name: str, known: dict) -> str:
    hint = did_you_mean(name, list(known))
    return hint if "did you mean" in hint else ""
