"""The last word on a prompt: all figures asked for, with intervals, and a line for each example."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprompt.experiment.build import Experiment
from jaxprompt.experiment.figures import Figures
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.machine.files import whole_file
from jaxprompt.metrics.classification import confusion
from jaxprompt.scoring.confidence import intervals
from jaxprompt.scoring.evaluate import Evaluation
from jaxprompt.types import Conditioning

PREDICTIONS = "predictions.jsonl"
# A confusion table of more classes is read by no one.
_MOST_CLASSES = 100


def judged(
    experiment: Experiment,
    figures: Figures,
    found: Evaluation,
    conditioning: Conditioning,
    rows: Sequence[Mapping[str, Any]],
    predictions: Path | None,
) -> dict[str, Any]:
    """All figures of an evaluation.

    Args:
      found: of all `rows`, in their order.
      predictions: where a line for each example is written; None: nowhere.

    Returns:
      The figures; `confidence`, an interval for each, where that is asked for; `confusion`, where there are labels.

    Raises:
      InputError: as `write_for`, or a disk that is full.
    """
    summary = found.metrics(figures.outputs)
    answered = found.answered
    known = found.of(answered)
    lines = []
    if figures.texts:
        inputs = Inputs.of(experiment, rows)
        texts = write_for(experiment, conditioning, inputs)
        summary |= {metric.name: metric(texts, inputs.references) for metric in figures.texts}
        summary["inputs"] = len(texts)
        lines = [
            {"row": number, "prediction": text, "references": references}
            for number, text, references in zip(inputs.numbers, texts, inputs.references, strict=True)
        ]
    elif not experiment.objective.writes:
        presented = experiment.objective.present(found.outputs)
        shown = [experiment.objective.shown(row, answer) for row, answer in zip(rows, presented, strict=True)]
        lines = [
            {"row": number, **answer, **(_truth(experiment, found, number - 1) if answered[number - 1] else {})}
            for number, answer in enumerate(shown, 1)
        ]
    if predictions is not None and lines:
        with whole_file(predictions) as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    names = experiment.objective.label_names
    if names and len(names) <= _MOST_CLASSES and "label" in known.answers:
        rows = confusion(known.outputs["logits"], known.answers["label"])
        summary["confusion"] = {"labels": list(names), "rows": rows}
    asked = experiment.config.evaluation.confidence
    if asked is not None:
        of_outputs = {
            metric.name: lambda drawn, metric=metric: next(iter(known.of(drawn).metrics([metric]).values()))
            for metric in figures.outputs
            if metric.higher_is_better is not None
        }
        summary["confidence"] = intervals({}, of_outputs, known.size, asked)
        if figures.texts:
            means = {metric.name: metric.values(texts, inputs.references) for metric in figures.texts if metric.each}
            of_texts = {
                metric.name: lambda drawn, metric=metric: metric(
                    [texts[at] for at in drawn], [inputs.references[at] for at in drawn]
                )
                for metric in figures.texts
                if not metric.each
            }
            summary["confidence"] |= intervals(means, of_texts, len(texts), asked)
    return summary


def _truth(experiment: Experiment, found: Evaluation, at: int) -> dict[str, Any]:
    """What an example was to be answered with, and whether it was."""
    if "label" in found.answers:
        label = int(found.answers["label"][at])
        right = int(found.outputs["logits"][at].argmax()) == label
        names = experiment.objective.label_names
        return {"answer": names[label] if names else label, "right": right}
    return {"answer": float(found.answers["value"][at])} if "value" in found.answers else {}
