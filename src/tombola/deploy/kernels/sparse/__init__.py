"""The sparse engine: regions of convolution and linear layers with zeros in their weights, on CPUs."""

from __future__ import annotations

from tombola.deploy.kernels.sparse.choices import Choices, supports
from tombola.deploy.kernels.sparse.region import NativeRegion
from tombola.deploy.kernels.sparse.tune import Known, Measured, build, measure

__all__ = ["Choices", "Known", "Measured", "NativeRegion", "build", "measure", "supports"]
