"""The exact difference of two checkpoints as a small file."""

from tombola.deltas.change import Change
from tombola.deltas.delta import Delta, delta
from tombola.deltas.keep import Tall

__all__ = ["Change", "Delta", "Tall", "delta"]
