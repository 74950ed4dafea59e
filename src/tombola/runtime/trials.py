"""What a network answers, to compare an export with: on an example, on inputs drawn like it, at other batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.compact.compare import largest_error, outputs
from tombola.errors import TombolaError
from tombola.nn.forward import leaves, mapped
from tombola.rng.seeds import generator

Inputs = tuple[Tensor, ...]
_EQUAL, _PAIR = 1e-4, 2


@dataclass(frozen=True)
class Trial:
    """Inputs, what they are, and the network's outputs."""

    what: str
    inputs: Inputs
    output: Any


@dataclass(frozen=True)
class Trials:
    """`trials`: beginning with the example, twice. `carries`: of each input, whether its first axis is the batch.
    `open`: whether the network takes other batch sizes. `allowed`: the largest error that counts as none."""

    trials: tuple[Trial, ...]
    carries: tuple[bool, ...]
    open: bool
    allowed: float

    @property
    def pair(self) -> Inputs:
        """What to trace with: a batch of 2, since a batch of 1 would be taken for a fixed size; or the example."""
        example = self.trials[0].inputs
        return tuple(_rows(x, _PAIR) if own and self.open else x for x, own in zip(example, self.carries, strict=True))

    def error(self, run: Callable[..., Any]) -> tuple[float, str]:
        """(the largest max|a - b| / max|a|, on what)."""
        found = [(largest_error(one.output, run(*(x.clone() for x in one.inputs))), one.what) for one in self.trials]
        return max(found, key=lambda pair: pair[0])


def trials_of(network: nn.Module, example: Sequence[Tensor]) -> Trials:
    """Call a network in eval mode; a batch size or drawn values that it refuses are left out.

    Raises TombolaError: it cannot run on the example.
    """
    first = tuple(example)
    size = len(first[0]) if first[0].dim() else 0
    carries = tuple(bool(x.dim()) and len(x) == size for x in first)
    draw = generator(0, "inputs like an example")
    tried = [("the example", first), ("the example again", first), ("drawn inputs", _drawn(first, carries, size, draw))]
    for batch in (n for n in (1, _PAIR, 5) if size and n != size):
        tried.append((f"a batch of {batch}", _drawn(first, carries, batch, draw)))
    found = [Trial(what, inputs, _copy(outputs(network, inputs))) for what, inputs in tried[:2]]
    for what, inputs in tried[2:]:
        try:
            found.append(Trial(what, inputs, _copy(outputs(network, inputs))))
        except TombolaError:  # it takes no such inputs
            continue
    sizes = {len(one.inputs[0]) for one in found if size}
    is_open = len(sizes) > 1 and _PAIR in sizes
    if not is_open:
        found = [one for one in found if one.inputs[0].shape == first[0].shape]
    coarsest = max((torch.finfo(x.dtype).eps for x in leaves(found[0].output) if x.is_floating_point()), default=0.0)
    return Trials(tuple(found), carries, is_open, max(_EQUAL, 8 * coarsest))


def _copy(output: Any) -> Any:
    return mapped(lambda tensor: tensor.detach().clone(), output)


def _drawn(example: Inputs, carries: Sequence[bool], size: int, draw: torch.Generator) -> Inputs:
    return tuple(_like(x, size if own else None, draw) for x, own in zip(example, carries, strict=True))


def _like(x: Tensor, size: int | None, draw: torch.Generator) -> Tensor:
    """Values of the kind of `x`: `size` rows, or none of the rows' axis changed."""
    rows = x if size is None else _rows(x, size)
    if x.is_floating_point():
        scale = float(x.double().square().mean().sqrt()) if x.numel() else 1.0
        return ((scale or 1.0) * torch.randn(rows.shape, generator=draw)).to(x.dtype)
    if x.dtype == torch.bool or x.is_complex() or not x.numel():
        return rows.clone()
    return torch.randint(int(x.min()), int(x.max()) + 1, rows.shape, generator=draw).to(x.dtype)


def _rows(x: Tensor, size: int) -> Tensor:
    return x[torch.arange(size) % len(x)]
