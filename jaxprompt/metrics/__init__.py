"""Figures of outputs against answers."""
