"""Pruned entries of a tensor set to their pruned value, exactly: in place, in a gradient, or as a parametrisation.

A float is viewed as an integer of its size: its bits times 0, plus the bits of a value, are that value to the bit. A
product of floats would give NaN where NaN or inf was pruned, and -0.0 where a negative number was.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tombola.machine.locks import once
from tombola.machine.memory import PLAIN, address, whereabouts, without_gaps

__all__ = ["Alive", "Masking", "PreparedWeight", "Pruned", "set_pruned"]

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LARGE = 16384  # entries; fewer are not worth the import of a compiler


class Alive:
    """Whether a hold is still active. Deep copies of a model share it with the model."""

    def __init__(self) -> None:
        self.yes = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Alive:
        return self


class Pruned:
    """What of one weight is kept (bool, the weight's shape), and the values of the rest; None for 0. Immutable."""

    def __init__(self, keep: Tensor, value: Tensor | None = None) -> None:
        self.keep, self.value = keep, value

    def __deepcopy__(self, memo: dict[int, Any]) -> Pruned:
        return self

    def of(self, tensor: Tensor) -> tuple[Tensor, Tensor | float]:
        """(what is kept, the values of the rest) of a tensor, on its device; of a DTensor, those of its local shard."""
        keep, value = self.keep.to(tensor.device), self.value
        if value is None:
            return _shard(keep, tensor), 0.0
        return _shard(keep, tensor), _shard(value.to(tensor.device, tensor.dtype), tensor)

    def conflicts(self, other: Pruned, dtype: torch.dtype) -> int:
        """How many entries both prune, to different values of that type."""
        if self.value is None and other.value is None:
            return 0
        here = self.keep.device
        zero = torch.zeros((), dtype=dtype, device=here)
        mine, theirs = (zero if one.value is None else one.value.to(here, dtype) for one in (self, other))
        return int((~self.keep & ~other.keep.to(here) & (mine != theirs)).sum())

    def joined(self, other: Pruned) -> Pruned:
        """What both keep; of what either prunes, its value there."""
        keep = self.keep & other.keep.to(self.keep.device)
        given = next((one.value for one in (self, other) if one.value is not None), None)
        if given is None:
            return Pruned(keep)
        zero = torch.zeros((), dtype=given.dtype, device=keep.device)
        first, second = (zero if one.value is None else one.value.to(keep.device) for one in (self, other))
        return Pruned(keep, torch.where(self.keep, second, first))

    def masked(self, weight: Tensor) -> Tensor:
        """A copy of the weight (its local shard) with its pruned entries at their value."""
        keep, value = self.of(weight)
        return torch.where(keep, _local(weight), value)

    def write(self, tensor: Tensor) -> None:
        """Set the pruned entries of any strided tensor, unseen by autograd."""
        data = tensor.data
        _local(data).copy_(self.masked(data))


class _Stencil:
    """What is pruned, in the memory order of one tensor: bool for a compiled loop (large float32 tensors on the CPU),
    else integers by which the tensor's bits are multiplied; and the bits of the values, 0 where a weight is kept."""

    def __init__(self, pruned: Pruned, tensor: Tensor) -> None:
        data = _local(tensor)
        word = _WORDS[data.element_size()]
        keep, value = pruned.of(tensor)
        self.layout = _layout(data)
        large = data.is_cpu and word == torch.int32 and data.numel() >= _LARGE
        self.loop = large and without_gaps(data) and type(data) in PLAIN
        self.keep = torch.empty_like(data, dtype=torch.bool if self.loop else word, requires_grad=False).copy_(keep)
        self.value: Tensor | None = None
        if isinstance(value, Tensor):
            bits = torch.where(keep, 0.0, value).view(word)
            self.value = torch.empty_like(data, dtype=word, requires_grad=False).copy_(bits)
        self.count = self.keep.numel()
        self.address = address(self.keep, torch.bool, self.count) if self.loop else 0

    def clear(self, gradient: Tensor) -> None:
        """Set the pruned entries of a strided gradient to 0."""
        keep = self.keep
        if gradient.device != keep.device:
            gradient.masked_fill_(keep.to(gradient.device) == 0, 0.0)
        elif self.loop and gradient.dtype == torch.float32 and _alike(gradient, keep):
            _loops().clear(address(gradient, torch.float32, self.count), self.address, self.count)
        elif not self.loop and gradient.element_size() == keep.element_size():
            gradient.view(keep.dtype).mul_(keep)
        else:
            gradient.masked_fill_(keep == 0, 0.0)


class PreparedWeight:
    """One parameter at its present memory, and what its pruned entries are written with.

    `bits`: None where the entries are too wide to be viewed as integers. Of a sharded parameter (DTensor) all is of
    the local shard.

    Args:
        old: the one before; what fits is reused.
    """

    def __init__(self, parameter: Tensor, pruned: Pruned, old: PreparedWeight | None = None) -> None:
        self.parameter, self.pruned = parameter, pruned
        self._storage = _storage(parameter)
        self.address = 0
        self.watched = False
        self._handle: RemovableHandle | None = None
        self.bits: Tensor | None = None
        self.stencil: _Stencil | None = None
        data = _local(parameter.data)
        if data.element_size() in _WORDS:
            with torch.inference_mode(False), torch.no_grad():
                self.bits = data.view(_WORDS[data.element_size()])
                fits = old is not None and old.stencil is not None and old.stencil.layout == _layout(data)
                self.stencil = old.stencil if old is not None and fits else _Stencil(pruned, parameter.data)
                if self.stencil is not None and self.stencil.loop:
                    self.address = address(data, data.dtype, data.numel())

    def stands(self, parameter: Tensor | None) -> bool:
        """Whether this is still that parameter, in the same memory."""
        return self.parameter is parameter and self._storage == _storage(self.parameter)

    def watch(self, alive: Alive) -> None:
        """Mask the parameter's gradient whenever it is accumulated, from when it can be."""
        if self.watched or not self.parameter.requires_grad:
            return
        self.watched = True
        hook = _GradientMask(self.pruned, self.stencil, alive)
        self._handle = self.parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        # after torch.utils.swap_tensors a parameter still has its table of hooks, but torch does not call them
        self.parameter._post_accumulate_grad_hooks = self.parameter._post_accumulate_grad_hooks

    def drop(self) -> None:
        """Stop masking its gradient."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            self.watched = False


def set_pruned(ready: Sequence[PreparedWeight]) -> None:
    """Write the pruned values into all parameters.

    The parameters' version counters stay: where the values were right nothing changes, so that a graph which saved the
    weights may still be run backward.
    """
    bits, keeps, filled, values = [], [], [], []
    for one in ready:
        stencil = one.stencil
        if one.bits is None or stencil is None:
            one.pruned.write(one.parameter)
        elif not stencil.loop:
            bits.append(one.bits)
            keeps.append(stencil.keep)
            if stencil.value is not None:
                filled.append(one.bits)
                values.append(stencil.value)
        elif stencil.value is None:
            _loops().clear(one.address, stencil.address, stencil.count)
        else:
            value = address(stencil.value, torch.int32, stencil.count)
            _loops().put(one.address, stencil.address, value, stencil.count)
    if bits:  # one fused call on a GPU
        torch._foreach_mul_(bits, keeps)
    if filled:
        torch._foreach_add_(filled, values)


class _GradientMask:
    """A hook that clears the gradient of pruned weights once it has been accumulated."""

    def __init__(self, pruned: Pruned, stencil: _Stencil | None, alive: Alive) -> None:
        self.pruned, self.stencil, self.alive = pruned, stencil, alive

    def __call__(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or not self.alive.yes:
            return
        if gradient.requires_grad:  # it will be differentiated
            parameter.grad = torch.where(self.pruned.keep.to(gradient.device), gradient, 0.0)
        elif gradient.layout == torch.sparse_coo:
            kept = self.pruned.keep.to(gradient.device)[tuple(gradient._indices())]
            gradient._values().masked_fill_(~kept, 0.0)
        elif self.stencil is None:
            gradient.masked_fill_(~self.pruned.keep.to(gradient.device), 0.0)
        else:
            self.stencil.clear(_local(gradient))


class Masking(nn.Module):
    """The last parametrisation of a weight that is computed from others: its pruned entries are exact."""

    keep: Tensor
    value: Tensor | None

    def __init__(self, pruned: Pruned, alive: Alive) -> None:
        super().__init__()
        self.alive = alive
        self.register_buffer("keep", pruned.keep, persistent=False)
        self.register_buffer("value", pruned.value, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, masked while the hold lasts."""
        if not self.alive.yes:
            return weight
        return torch.where(self.keep, weight, 0.0 if self.value is None else self.value.to(weight.dtype))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """An assignment passes to what the weight is computed from."""
        return weight


def _alike(gradient: Tensor, keep: Tensor) -> bool:
    """Whether the gradient lies in memory as the stencil does."""
    plain = type(gradient) in PLAIN and not gradient.is_neg()
    return plain and gradient.shape == keep.shape and gradient.stride() == keep.stride()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    tensor = _local(tensor)
    return whereabouts(tensor), tensor.shape, tensor.stride(), tensor.dtype


def _local(tensor: Tensor) -> Tensor:
    """The local shard of a DTensor; any other tensor itself."""
    if type(tensor) in PLAIN:
        return tensor
    local: Tensor = tensor._local_tensor if hasattr(tensor, "_local_tensor") else tensor
    return local


def _shard(whole: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor that the local shard of a DTensor covers; all of it for any other."""
    if type(like) in PLAIN or not hasattr(like, "_local_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()


@once
def _loops() -> ModuleType:
    """The compiled loops, imported when they are first needed."""
    from tombola.machine import loops

    return loops
