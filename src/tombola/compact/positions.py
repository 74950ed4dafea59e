"""Where every tensor of a smaller network stood in the whole one, and tensors carried from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.graph.ops import ChannelOp, Norm, Own, WeightLayer

Kept = Mapping[str, tuple[Tensor, ...]]
"""Name of a tensor -> the indices that are kept along its first axes, int64 on the CPU."""


@dataclass(frozen=True, eq=False)
class Positions:
    """`tensors`: layer or norm -> name of each of its tensors, and how many of its axes are cut. `left`: layer or norm
    -> which outputs and inputs of the whole one are left; of a parameter that is a value, which indices of each axis.
    """

    tensors: Mapping[str, Mapping[str, int]]
    left: Mapping[str, tuple[Tensor, ...]]

    @classmethod
    def of(cls, ops: Iterable[ChannelOp]) -> Positions:
        """Of a network of which nothing was cut yet."""
        tensors: dict[str, dict[str, int]] = {}
        left: dict[str, tuple[Tensor, ...]] = {}
        for op in ops:
            if isinstance(op, WeightLayer):
                tensors[op.name] = {op.weight_name: 2, **({op.bias_name: 1} if op.bias_name else {})}
                left[op.name] = _all(op.weight.shape[0]), _all(op.weight.shape[1])
            elif isinstance(op, Norm):
                tensors[op.name] = dict.fromkeys(op.tensors.values(), 1)
                left[op.name] = (_all(op.channels),) * 2
            elif isinstance(op, Own):
                tensors[op.name] = {op.name: op.value.dim()}
                left[op.name] = tuple(map(_all, op.value.shape))
        return cls(tensors, left)

    def cut(self, op: WeightLayer | Norm, into: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of a layer or norm of which those inputs and outputs (bool, of what is left now) stay."""
        outputs, inputs = self.left[op.name]
        in_groups = isinstance(op, WeightLayer) and op.groups > 1
        return outputs[out], inputs if in_groups else inputs[into]

    def cut_axes(self, op: Own, stays: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """What is left of a parameter's axes, of some of which those indices (bool) stay."""
        return tuple(left[stays[axis]] if axis in stays else left for axis, left in enumerate(self.left[op.name]))

    def kept(self) -> dict[str, tuple[Tensor, ...]]:
        """As `Compacted.kept`."""
        return {
            name: self.left[owner][:axes] for owner, tensors in self.tensors.items() for name, axes in tensors.items()
        }


def cut(whole: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """Those parts of whole tensors that a smaller network keeps, copied; tensors of other names stay whole.

    >>> cut({"fc.weight": torch.arange(6).reshape(2, 3)}, {"fc.weight": (torch.tensor([1]), torch.tensor([0, 2]))})
    {'fc.weight': tensor([[3, 5]])}
    """
    return {name: value[_index(value, kept[name])] if name in kept else value.clone() for name, value in whole.items()}


def scatter(small: Mapping[str, Tensor], whole: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """Whole tensors with a smaller network's values where they belong; everything else as it is in `whole`.

    >>> scatter({"a": torch.ones(1)}, {"a": torch.zeros(3)}, {"a": (torch.tensor([2]),)})
    {'a': tensor([0., 0., 1.])}
    """
    made = {name: value.clone() for name, value in whole.items()}
    for name, value in small.items():
        if name in kept:
            made[name][_index(made[name], kept[name])] = value.to(made[name].device)
        else:
            made[name] = value.clone()
    return made


def _index(tensor: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first = [indices.to(tensor.device) for indices in kept]
    return torch.meshgrid(*first, indexing="ij") if len(first) > 1 else tuple(first)


def _all(size: int) -> Tensor:
    return torch.arange(size, device="cpu")
