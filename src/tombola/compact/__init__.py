"""Exact removal of dead units and channels from a traced network."""

from tombola.compact.compact import Compacted, CompactReport, compact

__all__ = ["CompactReport", "Compacted", "compact"]
