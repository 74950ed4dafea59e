"""The sparse engine: regions of convolution and linear layers with zeros in their weights, on CPUs."""

from __future__ import annotations

from tombola.runtime.sparse.choices import supports
from tombola.runtime.sparse.region import NativeRegion
from tombola.runtime.sparse.tune import Measured, build, measure

__all__ = ["Measured", "NativeRegion", "build", "measure", "supports"]
