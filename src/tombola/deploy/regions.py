"""The modules that run the regions of a deployed network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.deploy.kernels.int8 import integer_reference
from tombola.deploy.kernels.int8.scales import Scale
from tombola.deploy.kernels.module import KernelModule
from tombola.deploy.lower import LoweredRegion
from tombola.deploy.ops import Region


class NativeModule(KernelModule):
    """A region in native kernels: takes the region's inputs, returns the tuple of its outputs."""

    def __init__(self, native: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.native, self.shapes = native, shapes

    @property
    def nbytes(self) -> int:
        """Bytes of weights."""
        return int(self.native.nbytes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Float32 tensors, batch first."""
        outputs = self.native(*inputs)
        return tuple(x.reshape(x.shape[0], *shape) for x, shape in zip(outputs, self.shapes, strict=True))


class ReferenceModule(nn.Module):
    """What a region in 8 bits computes, in plain torch."""

    def __init__(self, region: Region, scales: Mapping[str, Scale], shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self._region, self._scales, self._shapes = region, scales, shapes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Float32 tensors, batch first."""
        outputs = integer_reference(self._region, self._scales, *inputs)
        return tuple(x.reshape(x.shape[0], *shape) for x, shape in zip(outputs, self._shapes, strict=True))


class TorchModule(nn.Module):
    """A region in torch, its images in channels-last layout if that is faster."""

    def __init__(self, network: fx.GraphModule, *, channels_last: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore[call-overload, unused-ignore]
        self._channels_last = channels_last

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Float32 tensors, batch first."""
        if self._channels_last:
            inputs = tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs)
        outputs: tuple[Tensor, ...] = self.network(*inputs)
        return tuple(x.contiguous() for x in outputs) if self._channels_last else outputs


def region_module(engine: str, part: LoweredRegion, network: fx.GraphModule, native: Any) -> nn.Module:
    """The module for one of ENGINES; `network`: the region alone in torch, which is not changed."""
    if engine == "native":
        return NativeModule(native, part.shapes)
    last = engine == "torch-channels-last"
    return TorchModule(copy.deepcopy(network) if last else network, channels_last=last)


ENGINES = ("native", "torch", "torch-channels-last")
"""What can run a region in float32."""
INT8 = "int8"
"""The native kernels in 8 bits."""
