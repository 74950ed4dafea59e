"""Regions in 8 bits as a kernel; its scales are then those of normal numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tombola.deploy.kernels.int8.choices import Int8Choices, takes
from tombola.deploy.kernels.int8.reference import calibrated, integer_reference
from tombola.deploy.kernels.int8.region import Int8Region
from tombola.deploy.kernels.int8.scales import Scale
from tombola.deploy.kernels.int8.tune import variants
from tombola.deploy.kernels.kernel import Kernel
from tombola.deploy.ops import Region


def candidates(region: Region, batch: int, threads: int) -> Iterator[Int8Choices]:
    """Of a region that `unsupported` does not name."""
    return variants(region, batch, threads, _of_normal_numbers(region))


def reference(region: Region, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The region's outputs in float32, through whole numbers."""
    return integer_reference(region, _of_normal_numbers(region), *inputs)


def _of_normal_numbers(region: Region) -> dict[str, Scale]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(16, *shape) for shape in region.inputs.values()]
    inputs = [torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu") for shape in shapes]
    return calibrated(region, [inputs])


INT8 = Kernel("int8", takes, candidates, Int8Region, reference)
