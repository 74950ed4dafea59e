"""Scores to masks: criteria, scopes, patterns, exact selection (CPU, GPU, across ranks)."""

from tombola.select.select import EmptyLayerWarning, select

__all__ = ["EmptyLayerWarning", "select"]
