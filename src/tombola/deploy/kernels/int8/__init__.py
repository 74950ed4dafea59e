"""Regions in 8 bits: activations uint8, weights int8 with a step for each row, sums in 32 bits, exact."""

from tombola.deploy.kernels.int8.choices import Int8Choices, unsupported
from tombola.deploy.kernels.int8.reference import calibrated, integer_reference
from tombola.deploy.kernels.int8.region import Int8Region
from tombola.deploy.kernels.int8.tune import measure

__all__ = ["Int8Choices", "Int8Region", "calibrated", "integer_reference", "measure", "unsupported"]
