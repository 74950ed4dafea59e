"""Sparse Linear layers on CUDA: torch's 2:4 and block-sparse kernels, each kept only where it was measured faster.

The choice is tested on the CPU with stand-ins for kernels and clocks; what runs on a GPU alone is not: the
conversion to semi-structured tensors, block-sparse products in half precision, and the timing by CUDA events.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError

_ROUNDS, _CALLS = 5, 20
_FASTER = 0.95  # of the dense time, or less: else dense is kept

Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class CudaKernel:
    """A kernel for `F.linear`: which weights (out, in) fit it, and how such a weight is converted."""

    fits: Callable[[Tensor], bool]
    convert: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearChoice:
    """A Linear layer's kernel, "torch" or a name in KERNELS, and measured seconds of each (none: as planned)."""

    name: str
    kernel: str
    seconds: Mapping[str, float] = field(default_factory=dict)


def choose_kernels(
    model: nn.Module,
    example: Sequence[Tensor],
    kernels: Mapping[str, CudaKernel] | None = None,
    clock: Clock | None = None,
) -> tuple[LinearChoice, ...]:
    """The fastest kernel for each nn.Linear that the example reaches, on the inputs that reach it.

    A kernel that fails on a layer is skipped: what torch supports depends on the GPU.
    """
    time = clock or seconds_on_gpu
    known = KERNELS if kernels is None else kernels
    chosen = []
    for name, (layer, x) in _reached(model, example).items():
        seconds = {"torch": time(partial(layer, x))}
        for kernel, how in known.items():
            if how.fits(layer.weight):
                try:
                    weight = how.convert(layer.weight.detach())
                    seconds[kernel] = time(partial(nn.functional.linear, x, weight, layer.bias))
                except (RuntimeError, NotImplementedError, ValueError):
                    continue
        best = min(seconds, key=seconds.__getitem__)
        best = best if seconds[best] < _FASTER * seconds["torch"] else "torch"
        chosen.append(LinearChoice(name, best, seconds))
    return tuple(chosen)


def use_kernels(
    model: nn.Module, chosen: Sequence[tuple[str, str]], kernels: Mapping[str, CudaKernel] | None = None
) -> None:
    """Give the layers, by (name, kernel), the weights that make `F.linear` run these kernels; the model is changed.

    Raises:
        TombolaError: a layer that the model lacks, or whose weight does not fit its kernel.
    """
    known = KERNELS if kernels is None else kernels
    layers = dict(model.named_modules())
    for name, kernel in chosen:
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear) or (kernel != "torch" and not _fits(known, kernel, layer.weight)):
            raise TombolaError(f"the plan is of another network: {name!r} cannot run in {kernel!r}; deploy without it")
        if kernel != "torch":
            weight = known[kernel].convert(layer.weight.detach())
            layer.weight = nn.Parameter(weight, requires_grad=False)


def seconds_on_gpu(run: Callable[[], object]) -> float:
    """Seconds of one call on the current CUDA device: the median over rounds of several calls."""
    run()
    rounds = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(_CALLS):
            run()
        end.record()
        end.synchronize()
        rounds.append(float(start.elapsed_time(end)) / 1e3 / _CALLS)
    return statistics.median(rounds)


def fits_two_of_four(weight: Tensor) -> bool:
    """Whether a weight (out, in) has at most 2 nonzeros in each 4 along the input, in half precision and a size that
    torch's semi-structured kernels take (out in 32s, in in 64s)."""
    if weight.dim() != 2 or weight.dtype not in (torch.float16, torch.bfloat16):
        return False
    rows, columns = weight.shape
    if rows % 32 or columns % 64:
        return False
    return int((weight.detach() != 0).reshape(-1, 4).sum(1).max()) <= 2


def fits_blocks(weight: Tensor, side: int) -> bool:
    """Whether at most half of the side x side blocks of a weight (out, in) hold nonzeros."""
    if weight.dim() != 2 or weight.shape[0] % side or weight.shape[1] % side:
        return False
    rows, columns = weight.shape
    blocks = (weight.detach() != 0).reshape(rows // side, side, columns // side, side).any(3).any(1)
    return blocks.numel() > 0 and int(blocks.sum()) <= blocks.numel() / 2


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a dense, block-sparse or semi-structured tensor."""
    if tensor.layout is torch.sparse_bsr:
        return sum(part.nbytes for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()))
    if isinstance(tensor.data, torch.sparse.SparseSemiStructuredTensor):
        return sum(part.nbytes for part in (tensor.data.packed, tensor.data.meta) if part is not None)
    return tensor.nbytes


def _fits(kernels: Mapping[str, CudaKernel], kernel: str, weight: Tensor) -> bool:
    return kernel in kernels and kernels[kernel].fits(weight)


def _reached(model: nn.Module, example: Sequence[Tensor]) -> dict[str, tuple[nn.Linear, Tensor]]:
    """Name -> (layer, the first input that reaches it)."""
    reached: dict[str, tuple[nn.Linear, Tensor]] = {}

    def keep(name: str, module: nn.Linear, args: tuple[Any, ...]) -> None:
        reached.setdefault(name, (module, args[0].detach().clone()))

    handles = [
        module.register_forward_pre_hook(partial(keep, name))
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        with torch.no_grad():
            model(*(x.clone() for x in example))
    finally:
        for handle in handles:
            handle.remove()
    return reached


def _semi_structured(weight: Tensor) -> Tensor:
    return torch.sparse.to_sparse_semi_structured(weight.contiguous())


def _block_sparse(side: int, weight: Tensor) -> Tensor:
    return weight.to_sparse_bsr((side, side))


KERNELS: Mapping[str, CudaKernel] = MappingProxyType(
    {
        "semi-structured": CudaKernel(fits_two_of_four, _semi_structured),
        **{
            f"blocks-{side}": CudaKernel(partial(fits_blocks, side=side), partial(_block_sparse, side))
            for side in (16, 32, 64)
        },
    }
)
"""Name of a kernel, as in plans and reports -> the kernel."""
