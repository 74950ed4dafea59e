"""A trained network, pruned in one shot: calibration, criteria, reconstruction, patterns."""

from tombola.prune.prune import prune
from tombola.prune.pruned import Pruned, PrunedLayer

__all__ = ["Pruned", "PrunedLayer", "prune"]
