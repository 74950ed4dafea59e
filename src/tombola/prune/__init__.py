"""A trained network, pruned in one shot: calibration, criteria, reconstruction, patterns."""

from tombola.prune.allocate import Evolution
from tombola.prune.budget import Reached, prune_to
from tombola.prune.prune import prune
from tombola.prune.pruned import Pruned, PrunedLayer
from tombola.prune.sensitivity import sensitivity
from tombola.results.sensitivity import Sensitivity

__all__ = ["Evolution", "Pruned", "PrunedLayer", "Reached", "Sensitivity", "prune", "prune_to", "sensitivity"]
