"""Block floating point: numbers that share one exponent per block, each with a mantissa of a few bits.

The arithmetic of SWALP (Yang et al. 2019) and of the low-precision search of early-bird tickets (You et al. 2020),
simulated: numbers are rounded to the format and kept in their own dtype. What a block holds is a multiple of
2^(e - bits + 2), e the exponent of its largest magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.nn.forward import leaves, mapped
from tombola.parameters import holders, prunable

BITS = 8
"""Of a mantissa, its sign among them: -127 to 127."""

_Args = tuple[Any, ...]


@torch.no_grad()
def quantise(x: Tensor, bits: int = BITS, generator: torch.Generator | None = None, axis: int | None = 0) -> Tensor:
    """`x` rounded to block floating point; a new tensor of its shape and dtype.

    Args:
        x: floating point. Below float32 it is rounded in float32 and given back in its dtype.
        bits: of a mantissa, with its sign; 2 to 16
        generator: on the device of `x`; rounding is stochastic, up with the probability of the fraction that is
            cut off, so that the expectation is `x`. None: to nearest, half to even.
        axis: every index along it is a block: of a weight (0) the output channel, of an activation (0) the example.
            Tensors of one dimension and of none are one block, as is all of `x` where it is None.

    What has so few bits already stays as it is. A magnitude less than one step below the next power of two, within
    which the block's exponent ends, is clipped to the largest mantissa.
    Steps are normal numbers: a block below 2^(bits - 1) times the dtype's smallest one keeps fewer bits. A block with
    a NaN or an infinity stays as it is.

    >>> quantise(torch.tensor([1.0, 0.5, 0.3, 0.007]))  # multiples of 1/64
    tensor([1.0000, 0.5000, 0.2969, 0.0000])
    """
    if not 2 <= bits <= 16:
        raise TombolaError(f"bits is {bits}; a mantissa has 2 to 16, its sign among them")
    if x.numel() == 0:
        return x.clone()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    step, finite = _step(wide, bits, axis)
    scaled = wide / step  # exact: a power of two
    if generator is None:
        mantissa = scaled.round()
    else:
        mantissa = scaled.floor()
        draw = torch.empty_like(scaled).uniform_(generator=generator)
        # The fraction is exact, and 0 is above no draw: what is on the grid already stays.
        mantissa += draw.lt_(scaled.sub_(mantissa))  # 1 where it goes up
    largest = 2 ** (bits - 1) - 1  # on both sides: with -128 for one more bit a block would not be a fixed point
    rounded = mantissa.clamp_(-largest, largest).mul_(step)
    return torch.where(finite, rounded, wide).to(x.dtype)


def _step(x: Tensor, bits: int, axis: int | None) -> tuple[Tensor, Tensor]:
    """Every block's unit in the last place, and whether the block is finite; both broadcast to `x`."""
    if axis is None or x.dim() < 2:
        largest = x.abs().amax()
    else:
        largest = x.abs().amax([dim for dim in range(x.dim()) if dim != axis % x.dim()], keepdim=True)
    finite = largest.isfinite()
    bounded = largest.where(finite, largest.new_ones(())).clamp_(min=torch.finfo(x.dtype).tiny * 2 ** (bits - 1))
    fraction, _ = torch.frexp(bounded)  # in [1/2, 1)
    return bounded * 2.0 ** (1 - bits) / fraction, finite


@contextmanager
def low_precision_operands(model: nn.Module, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within it the layers whose weights may be pruned multiply 8-bit numbers, besides their weights.

    What such a layer takes in is rounded, and so is the gradient that reaches its output: every operand of the forward
    and of both products of the backward pass. Gradients pass the rounding of activations unchanged.
    Blocks are the examples.

    Args:
        generator: of a layer in training mode, for stochastic rounding; in evaluation mode rounding is to nearest.
    """

    def rounded(layer: nn.Module, x: Any) -> Any:
        drawn = generator if layer.training else None
        return mapped(lambda part: _Rounded.apply(part, drawn) if part.is_floating_point() else part, x)

    def take_in(layer: nn.Module, args: _Args, kwargs: dict[str, Any]) -> tuple[_Args, dict[str, Any]]:
        return tuple(rounded(layer, x) for x in args), {name: rounded(layer, x) for name, x in kwargs.items()}

    def give_out(layer: nn.Module, args: _Args, output: Any) -> None:
        for part in leaves(output):
            if part.requires_grad:  # a hook, not a function around it: what follows may work in place
                part.register_hook(lambda error: quantise(error, generator=generator))  # type: ignore[no-untyped-call]

    with ExitStack() as undo:
        for layer in _multiplying(model):
            undo.callback(layer.register_forward_pre_hook(take_in, with_kwargs=True).remove)
            undo.callback(layer.register_forward_hook(give_out).remove)
        yield


def _multiplying(model: nn.Module) -> list[nn.Module]:
    """The modules that hold a weight which may be pruned, each once."""
    held = holders(model)
    return list({id(module): module for name in prunable(model) for module, _ in held[name]}.values())


class _Rounded(torch.autograd.Function):
    """Rounded forward, the gradient as it is backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return quantise(x, generator=generator)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None
