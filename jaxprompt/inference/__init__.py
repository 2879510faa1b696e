"""Using what was learned: scores, answers, text."""
