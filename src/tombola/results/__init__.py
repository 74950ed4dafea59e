"""Typed results and their statistics."""

from tombola.results.table import ResultRow, Results, results

__all__ = ["ResultRow", "Results", "results"]
