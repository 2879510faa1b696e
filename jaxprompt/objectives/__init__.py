"""Objectives: what is scored, and what is answered. One file each, and a line in `OBJECTIVES`."""

from jaxprompt.objectives.base import DataAccess, Objective, Vocabulary
from jaxprompt.objectives.choices import Choices
from jaxprompt.objectives.classifier import Classifier
from jaxprompt.objectives.generation import Generation
from jaxprompt.objectives.regression import Regression
from jaxprompt.objectives.similarity import Similarity
from jaxprompt.objectives.verbalizer import Verbalizer

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (Generation, Verbalizer, Choices, Classifier, Similarity, Regression)
}

__all__ = ["OBJECTIVES", "DataAccess", "Objective", "Vocabulary"]
