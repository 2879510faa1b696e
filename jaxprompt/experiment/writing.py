"""What a run writes for its validation inputs, and what that is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxprompt.experiment.build import Experiment
from jaxprompt.scoring.writing import contexts_of, search_of, write
from jaxprompt.text.encode import Trunk
from jaxprompt.types import Conditioning


@dataclass(frozen=True)
class Inputs:
    """Distinct inputs, each written for once.

    Attributes:
      numbers: the number of the first row of each, from 1.
      trunks: what is to be continued.
      references: what may be written, of all rows with that input.
    """

    numbers: list[int]
    trunks: list[Trunk]
    references: list[list[str]]

    @classmethod
    def of(cls, experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> "Inputs":
        """Rows with the same context are one input: their targets are references of one another.

        Raises InputError, naming the row, for a field or target that is missing.
        """
        places: dict[tuple, int] = {}
        inputs = cls([], [], [])
        for number, row in enumerate(rows, 1):
            answer = experiment.objective.answer(row, number)
            trunk = experiment.encoder.context(row, number=number)
            marks = tuple(trunk.read or ()), tuple(trunk.source_read or ())
            key = tuple(trunk.ids), None if trunk.source is None else trunk.source.tobytes(), *marks
            if key not in places:
                places[key] = len(inputs.numbers)
                inputs.numbers.append(number)
                inputs.trunks.append(trunk)
                inputs.references.append([])
            inputs.references[places[key]] += answer.get("references", [answer["target"]])
        return inputs

    def first(self, count: int | None) -> "Inputs":
        return Inputs(self.numbers[:count], self.trunks[:count], self.references[:count])


def write_for(experiment: Experiment, conditioning: Conditioning, inputs: Inputs) -> list[str]:
    """What the backbone writes for each input, by the config's `evaluation`.

    Raises InputError as `scoring.writing.write` does, or for inputs that leave no room to write.
    """
    options, backbone = experiment.config.evaluation, experiment.backbone
    contexts = contexts_of(inputs.trunks, experiment.encoder)
    search, contexts = search_of(
        backbone,
        contexts,
        experiment.encoder,
        conditioning.prefix,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
    )
    return [text.strip() for text in write(backbone, search, contexts, conditioning, options.batch_size)]
