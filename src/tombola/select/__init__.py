"""Scores to masks: criteria, scopes, patterns, exact selection (CPU, GPU, across ranks)."""
