"""Attention, losses and products."""
