"""The published methods by name: one short file each. This mapping is the only registry (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping

from tombola.methods.imp import IterativePruning

METHODS: Mapping[str, type[IterativePruning]] = {"imp": IterativePruning}
"""Name on the command line -> dataclass whose fields are the method's options."""
