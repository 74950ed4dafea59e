"""What 8-bit kernels compute, in plain torch: whole sums, then float32 in the kernels' order; equal to the bit.

(Activations with an exponential are torch's own, within float32's last bits of the kernels'.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tombola.deploy.kernels.int8.choices import held_values
from tombola.deploy.kernels.int8.scales import GROUP, LEVELS, Rows, Scale, rows_of, scale_of
from tombola.deploy.kernels.kernel import values_of
from tombola.deploy.kernels.sparse.geometry import shapes_of, vectors_of
from tombola.deploy.ops import Conv, Linear, Pool, Region, padded


def calibrated(region: Region, batches: Iterable[Sequence[Tensor]]) -> dict[str, Scale]:
    """The scales of a region's values, from the least and largest of each on batches of its inputs.

    Raises:
        TombolaError: values that are not finite.
    """
    extent: dict[str, tuple[float, float]] = {}
    for inputs in batches:
        for name, x in values_of(region, *inputs).items():
            if x.numel():
                low, high = (float(one) for one in torch.aminmax(x))
                before = extent.get(name, (low, high))
                extent[name] = min(low, before[0]), max(high, before[1])
    scales = {name: scale_of(*extent.get(name, (0.0, 0.0))) for name in held_values(region)}
    for op in region.ops:
        if isinstance(op, Pool) and op.kind == "max":
            scales[op.target] = scales[op.source]  # the largest of numbers has their scale
    return scales


def rows_of_layer(op: Conv | Linear, region: Region) -> tuple[Rows, NDArray[np.int64]]:
    """(its weight in 8 bits, the place of each column: word of the input · 4 + byte)."""
    _, high, wide = shapes_of(region)[op.source]
    taps = high * wide if isinstance(op, Linear) else op.weight.shape[2:].numel()
    column = np.arange(op.nonzeros.matrix.shape[1])
    channel, tap = column // taps, column % taps
    place = (channel // GROUP * taps + tap) * GROUP + channel % GROUP
    return rows_of(op.nonzeros.matrix, place), place


def integer_reference(region: Region, scales: Mapping[str, Scale], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The region's outputs, float32."""
    held = [x.unsqueeze(-1) if x.dim() == 3 else x for x in inputs]
    found = {name: integers(x, scales[name]) for name, x in zip(region.inputs, held, strict=True)}
    vectors = vectors_of(region)
    for op in region.ops:
        assert isinstance(op, Conv | Linear | Pool)
        x, own = found[op.source], scales[op.source]
        if isinstance(op, Pool) and op.kind == "max":
            (top, left), (bottom, right) = op.padding, op.after
            found[op.target] = F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-1.0), op.kernel, op.stride)
            continue
        away = x - own.zero
        if isinstance(op, Pool):
            count = op.kernel[0] * op.kernel[1]
            sums = F.avg_pool2d(away, op.kernel, op.stride, divisor_override=1)
            y = sums.float() * torch.tensor(np.float32(own.step) / np.float32(count), device="cpu")
        else:
            y = _layer(op, away, region, own)
            if op.residual is not None:
                rest, other = found[op.residual], scales[op.residual]
                y = y + (rest - other.zero).float() * torch.tensor(np.float32(other.step), device="cpu")
        y = y if op.activation is None else op.activation(y)
        found[op.target] = y if op.target in region.outputs else integers(y, scales[op.target])
    return tuple(found[name].flatten(1) if name in vectors else found[name] for name in region.outputs)


def _layer(op: Conv | Linear, away: Tensor, region: Region, own: Scale) -> Tensor:
    rows, _ = rows_of_layer(op, region)
    weight = torch.from_numpy(rows.values).double().view(op.weight.shape)
    if isinstance(op, Linear):
        sums = away.flatten(1) @ weight.t()
    else:
        sums = F.conv2d(padded(away, op), weight, None, op.stride, 0, op.dilation)
    along = (1, -1, *[1] * (sums.dim() - 2))
    scale = torch.from_numpy(rows.steps * np.float32(own.step)).view(along)
    bias = (
        torch.zeros(len(weight), dtype=torch.float32, device="cpu")
        if op.bias is None
        else op.bias.detach().to("cpu", torch.float32)
    )
    return sums.float() * scale + bias.view(along)


def integers(x: Tensor, scale: Scale) -> Tensor:
    """float32 as whole numbers 0 to 255, in float64; NaN gives 0."""
    inverse = torch.tensor(np.float32(1) / np.float32(scale.step), device="cpu")
    away = torch.nan_to_num(torch.round(x * inverse), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return (away.clamp(-scale.zero, LEVELS - scale.zero) + scale.zero).double()
