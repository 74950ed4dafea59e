"""Masks held on a live model: pruned weights stay exactly at their pruned value."""

from tombola.hold.hold import Hold, hold, release

__all__ = ["Hold", "hold", "release"]
