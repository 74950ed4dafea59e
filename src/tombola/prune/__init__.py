"""A trained network, pruned in one shot: calibration, criteria, reconstruction, patterns."""

from tombola.prune.prune import Pruned, prune

__all__ = ["Pruned", "prune"]
