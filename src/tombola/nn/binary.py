"""Binary activations, and layers whose weights are 0 or one magnitude per output row (Diffenderfer & Kailkhura 2021).

The layers sum integers first and scale after, so that on inputs of -1 and +1 every sum is exact in float32 up to 2^24
and does not depend on its order: packed kernels can agree with them to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import handle_torch_function, has_torch_function_unary

from tombola.errors import TombolaError
from tombola.parameters import holders, parameters_by_name, resolve

_T = TypeVar("_T")


def _one_call(function: Callable[[Tensor], _T]) -> Callable[[Tensor], _T]:
    """The function as one call to whoever listens to calls of torch: a mode, torch.fx, a subclass of Tensor."""

    @wraps(function)
    def called(x: Tensor) -> _T:
        if has_torch_function_unary(x):
            result: _T = handle_torch_function(called, (x,), x)
            return result
        return function(x)

    return called


# ---- activations -------------------------------------------------------------------------------------------


class BinaryActivation(nn.Module):
    """sign(x) with sign(0) = +1: exactly -1 or +1, in the shape and dtype of x; never in place.

    Backward, the factor is 2(1-|x|) where |x| <= 1, else 0: the derivative of Bi-Real Net's piecewise quadratic
    (Liu et al. 2018), as in Diffenderfer & Kailkhura 2021.
    """

    replaced_in_place = False
    """Whether it stands for a ReLU that overwrote its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map floats of any shape."""
        return binary_sign(x)


@_one_call
def binary_sign(x: Tensor) -> Tensor:
    """What `BinaryActivation` computes, as a function."""
    out: Tensor = _BinarySign.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return out


class _BinarySign(torch.autograd.Function):
    # In place after the first operation: on the CPU a fresh tensor of this size costs more than a pass over one.

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(x).add_(0.5).sign_()  # the half sends -0.0 and 0.0 to +1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        factor: Tensor = x.abs().clamp_(max=1).sub_(1).mul_(-2)
        return factor.mul_(g)


# ---- layers ------------------------------------------------------------------------------------------------


def is_binary(weight: Tensor) -> bool:
    """Whether every output row (dim 0) holds finite values of one magnitude, zeros aside: what Binary* layers need."""
    rows = weight.detach().reshape(weight.shape[0] if weight.dim() else 1, -1).abs()
    if rows.numel() == 0:
        return True
    alpha = rows.amax(1, keepdim=True)
    return bool((alpha.isfinite() & ((rows == 0) | (rows == alpha))).all())


@_one_call
def signs_and_scale(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sign(weight), alpha): -1, 0 or +1 in the weight's shape; the largest magnitude of each row, shape (rows,).

    alpha is a constant to autograd. Through the signs the gradient of the weight is that of the plain layer,
    dL/d(sign)/alpha. A row without weights has alpha 1, so that its gradient is the plain layer's too.
    """
    signs, alpha = _SignsAndScale.apply(weight)  # type: ignore[no-untyped-call, unused-ignore]
    return signs, alpha


class _SignsAndScale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> tuple[Tensor, Tensor]:
        alpha = weight.abs().amax(tuple(range(1, weight.dim())))  # many times faster than torch's infinity norm
        signs = weight.clone().sign_()  # torch.sign(weight) may choose other strides for a 1x1 kernel
        return signs, torch.where(alpha == 0, torch.ones_like(alpha), alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        alpha = output[1]
        ctx.mark_non_differentiable(alpha)
        ctx.save_for_backward(alpha)

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> Tensor:
        alpha: Tensor = ctx.saved_tensors[0]
        alpha = alpha.reshape(-1, *[1] * (g.dim() - 1))
        return g / alpha


class BinaryLinear(nn.Linear):
    """alpha·(sign(weight) x) + bias for a weight whose rows hold 0 and ±alpha only: see `is_binary`.

    Nothing checks that in the forward pass; other weights give another result than nn.Linear.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        signs, alpha = signs_and_scale(self.weight)
        return scaled(F.linear(input, signs), alpha, self.bias)


class _BinaryConv(nn.Module):
    """alpha·(sign(weight) ⋆ x) + bias for a weight whose rows hold 0 and ±alpha only: see `is_binary`.

    Nothing checks that in the forward pass; other weights give another result than the plain convolution.
    """

    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, channels, *space) or (channels, *space)."""
        signs, alpha = signs_and_scale(self.weight)
        sums = self._conv_forward(input, signs, None)  # type: ignore[operator]
        rows = (-1, *[1] * len(self.kernel_size))
        return scaled(sums, alpha.reshape(rows), None if self.bias is None else self.bias.reshape(rows))


class BinaryConv1d(_BinaryConv, nn.Conv1d):
    __doc__ = _BinaryConv.__doc__ or ""


class BinaryConv2d(_BinaryConv, nn.Conv2d):
    __doc__ = _BinaryConv.__doc__ or ""


class BinaryConv3d(_BinaryConv, nn.Conv3d):
    __doc__ = _BinaryConv.__doc__ or ""


def scaled(sums: Tensor, alpha: Tensor, bias: Tensor | None) -> Tensor:
    """sums·alpha + bias, in place: nothing keeps the sums, and alpha takes no gradient."""
    out = sums.mul_(alpha)
    return out if bias is None else out.add_(bias)


# ---- putting the layers in ---------------------------------------------------------------------------------

_BINARY: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: BinaryLinear,
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.Conv3d: BinaryConv3d,
}


def use_binary_layers_(model: nn.Module, names: Iterable[str]) -> None:
    """Turn the layers that hold the named weights into Binary* layers, in place: class alone, nothing else moves.

    Before parametrisations are attached; their effective weights must be binary from then on (`is_binary`). Layers
    that share a named weight are all turned; those that are Binary* already stay.

    Args:
        names: state_dict names, such as "features.0.weight"

    Raises:
        TombolaError: no such weight; it does not belong to a plain Linear or convolution; the layer carries a
            parametrisation. Nothing is changed then.
    """
    every, owners = parameters_by_name(model, tied=True), holders(model)
    owner = {id(parameter): name for name, parameter in parameters_by_name(model).items()}
    turn: list[nn.Module] = []
    for name in names:
        for module, local in owners[owner[id(resolve(every, name))]]:
            _check_turns(name, module, local)
            turn.append(module)
    for module in turn:
        module.__class__ = _BINARY.get(type(module), type(module))


def _check_turns(name: str, module: nn.Module, local: str) -> None:
    if parametrize.is_parametrized(module):
        raise TombolaError(f"{name!r} carries a parametrisation already; use binary layers before anything is attached")
    kind = type(module)
    if local != "weight" or kind not in {*_BINARY, *_BINARY.values()}:
        what = f"{local} of a {kind.__module__.partition('.')[0]} {kind.__name__}"
        raise TombolaError(
            f"{name!r} is the {what}; only weights of nn.Linear and nn.Conv1d, 2d, 3d can be binary: leave it out"
        )
