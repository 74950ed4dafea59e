"""Batch norms whose statistics are those of the whole batch, where several processes have a part of it each.

torch's SyncBatchNorm does so on GPUs, as a module of its own. Here the call is replaced while it is made, so that the
network stays as it is, on a CPU too. With N examples and positions of all ranks together, of one channel:

    mean = sum x / N,  var = sum (x - mean)^2 / N,  y = weight·(x - mean)/sqrt(var + eps) + bias
    dL/dx = weight/sqrt(var + eps) · (g - sum g / N - x̂·(sum g·x̂) / N),  g = dL/dy, x̂ the normalised x

L the sum of the ranks' losses, and every sum over all ranks. Gradients of weight and bias are this rank's share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from tombola.machine.ranks import Ranks


def shared_norms(model: nn.Module, ranks: Ranks) -> Callable[[], AbstractContextManager[Any]]:
    """Gives what a forward pass in training mode is done within, by all ranks together."""
    has_norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    return (lambda: _SharedNorms(ranks)) if ranks.size > 1 and has_norms else nullcontext


class _SharedNorms(TorchFunctionMode):
    """Replaces calls of `F.batch_norm` that take their statistics from the batch."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        output, mean, var, count = _Normalised.apply(input, weight, bias, eps, self._ranks)
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
        result: Tensor = output
        return result


class _Normalised(torch.autograd.Function):
    """(N, C, ...) -> the same, normalised, with mean and variance (C,) in float64 and the count behind them, 0-d."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide, over = _wide(x), _over(x)
        own_mean = wide.mean(over)
        own_squares = (wide - _as(own_mean, x)).square().sum(over)
        own_count = own_mean.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        parts = ranks.stacked(torch.cat([own_count, own_mean.double(), own_squares.double()]))
        counts, means, squares = torch.split(parts, [1, x.shape[1], x.shape[1]], dim=1)
        count = counts.sum()
        if not count > 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean = (counts * means).sum(0) / count
        var = (squares + counts * (means - mean).square()).sum(0) / count
        centre, scale = mean.to(wide.dtype), (var + eps).rsqrt().to(wide.dtype)
        ctx.save_for_backward(x, weight, centre, scale, count)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, var, count)
        normal = (wide - _as(centre, x)) * _as(scale if weight is None else scale * _wide(weight), x)
        return (normal if bias is None else normal + _as(_wide(bias), x)).to(x.dtype), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *unused: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, centre, scale, count = ctx.saved_tensors
        g, over = _wide(gradient), _over(x)
        normal = (_wide(x) - _as(centre, x)) * _as(scale, x)
        sums = torch.stack([g.sum(over), (g * normal).sum(over)])
        of_x = None
        if ctx.needs_input_grad[0]:
            means = (ctx.ranks.total(sums.double()) / count).to(g.dtype)
            slope = scale if weight is None else scale * _wide(weight)
            of_x = ((g - _as(means[0], x) - normal * _as(means[1], x)) * _as(slope, x)).to(x.dtype)
        of_weight = sums[1].to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None
        of_bias = sums[0].to(weight.dtype if weight is not None else x.dtype) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None, None


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _over(x: Tensor) -> list[int]:
    """All dimensions but the channels."""
    return [dim for dim in range(x.dim()) if dim != 1]


def _as(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, to broadcast to `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
