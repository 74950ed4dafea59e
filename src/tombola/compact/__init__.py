"""Exact removal of dead units and channels from a traced network."""

from tombola.compact.compact import Compacted, Report, compact

__all__ = ["Compacted", "Report", "compact"]
