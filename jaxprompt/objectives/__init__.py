"""What is scored, one file per objective."""

from jaxprompt.objectives.objective import Objective, Scores, class_scores, normalize, pool

__all__ = ["Objective", "Scores", "class_scores", "normalize", "pool"]
