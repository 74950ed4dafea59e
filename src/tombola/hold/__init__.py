"""Masks held on a live model: pruned weights stay exactly at their pruned value."""

from tombola.hold.hold import Hold, held, hold, pause, release

__all__ = ["Hold", "held", "hold", "pause", "release"]
