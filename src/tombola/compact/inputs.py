"""Inputs like a user's example, drawn here: other values of its kind, and other batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola.nn.forward import leaves
from tombola.rng.seeds import generator

Inputs = tuple[Tensor, ...]
Kind = Callable[[Tensor, tuple[int, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class Batch:
    """What of an example is its batch.

    `size`: of the first axis of the first input. `carries`: of each input, whether its first axis is the batch.
    `only`: why the network takes no other batch size; None if it does.
    """

    size: int
    carries: tuple[bool, ...]
    only: str | None = None

    def __str__(self) -> str:
        return "any batch" if self.only is None else f"a batch of {self.size} only ({self.only})"


@dataclass(frozen=True, eq=False)
class DrawnInputs:
    """Inputs that the network takes, what they are, for reports, and what it gave for them."""

    what: str
    inputs: Inputs
    output: Any


def inputs_like(
    run: Callable[..., Any], example: Sequence[Tensor], output: Any
) -> tuple[tuple[DrawnInputs, ...], Batch]:
    """Inputs that a network takes: the example twice, drawn ones, and ones of other batch sizes, none included.

    `run`: the network's call, which gave `output` for the example; what it refuses with an exception is left out. Where
    it refuses standard normal values, or gives NaN or inf for them alone, values within the example's range are tried,
    then the example's rows in another order.
    """
    first = tuple(example)
    one, other = DrawnInputs("the example", first, output), DrawnInputs("the example again", first, run(*first))
    tries = _Tries(run, first, _finite(output))
    size = len(first[0]) if first[0].dim() else 0
    drawn, _ = tries.drawn(size, (False,) * len(first), "drawn inputs")
    carries, more, why = _other_sizes(tries, size)
    return (one, other, *drawn, *more), Batch(size, carries, why)


def _other_sizes(tries: _Tries, size: int) -> tuple[tuple[bool, ...], list[DrawnInputs], str | None]:
    """Which inputs carry the batch; inputs of other batch sizes; why there are none."""
    sizes = [n for n in (6 if size == 5 else 5, 1, 0) if n != size]
    refusals: list[str] = []
    for carries in batch_axes(tries.example):
        drawn: list[DrawnInputs] = []
        for n in sizes:
            found, why = tries.drawn(n, carries, f"a batch of {n}")
            drawn += found
            if why is not None:
                refusals.append(f"it refuses {n}: {why}")
        if any(len(one.inputs[0]) for one in drawn):
            return carries, drawn, None
    return (False,) * len(tries.example), [], refusals[0] if refusals else "its first input has no batch"


def batch_axes(example: Sequence[Tensor]) -> list[tuple[bool, ...]]:
    """Which inputs may carry the batch: those that are as long as the first, or the first alone."""
    size = len(example[0]) if example and example[0].dim() else 0
    alike = tuple(bool(x.dim()) and len(x) == size for x in example)
    return list(dict.fromkeys((alike, (True,) + (False,) * (len(example) - 1)))) if size else []


@dataclass(frozen=True, eq=False)
class _Tries:
    """Calls of a network to see what it takes. `finite`: whether its outputs for the example are."""

    run: Callable[..., Any]
    example: Inputs
    finite: bool

    def drawn(self, size: int, carries: Sequence[bool], what: str) -> tuple[list[DrawnInputs], str | None]:
        """Inputs of the widest kind of values that suits the network, one or none; why it refuses its own rows."""
        why: str | None = None
        for kind in (_normal, _within, _rows):
            try:
                inputs = self._like(kind, size, carries)
                output = self.run(*inputs)
                suits = _finite(output) or not self.finite
            except Exception as error:  # values outside of what the network is for, or another batch
                why = f"{type(error).__name__} {' '.join(str(error).split())[:120]}"
                continue
            why = None
            if suits or kind is _rows:
                return [DrawnInputs(what, inputs, output)], None
        return [], why

    def _like(self, kind: Kind, size: int, carries: Sequence[bool]) -> Inputs:
        draw = generator(0, "inputs like an example")
        return tuple(_of(x, kind, size, own, draw) for x, own in zip(self.example, carries, strict=True))


def _finite(output: Any) -> bool:
    return all(bool(x.isfinite().all()) for x in leaves(output) if x.layout == torch.strided and not x.is_quantized)


def _of(x: Tensor, kind: Kind, size: int, own: bool, draw: torch.Generator) -> Tensor:
    """Values like those of `x`: of `size` rows where the first axis is the batch, else of the same shape."""
    shape = (size, *x.shape[1:]) if own else tuple(x.shape)
    values = x.detach().to("cpu").to_dense() if x.layout != torch.strided else x.detach().to("cpu")
    return kind(values, shape, draw).to(x.device, x.dtype)


def _normal(x: Tensor, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Normal numbers, of the example's scale or 1; integers and bools as the example has them."""
    if not (x.is_floating_point() or x.is_complex()):
        return _within(x, shape, draw)
    wide = torch.complex128 if x.is_complex() else torch.float64
    seen = x.to(wide).abs()
    seen = seen[seen.isfinite()]
    scale = max(1.0, float(seen.square().mean().sqrt())) if seen.numel() else 1.0
    return scale * torch.randn(shape, generator=draw, dtype=wide, device="cpu")


def _within(x: Tensor, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Numbers between the smallest and the largest of the example."""
    if x.is_complex() or x.dtype == torch.bool:
        return (
            _rows(x, shape, draw)
            if x.is_complex()
            else torch.rand(shape, generator=draw, dtype=torch.float32, device="cpu") < 0.5
        )
    if not x.is_floating_point():
        low, high = (int(x.min()), int(x.max())) if x.numel() else (0, 0)
        return (
            torch.randint(low, high + 1, shape, generator=draw, device="cpu")
            if high < 2**63 - 1
            else _rows(x, shape, draw)
        )
    seen = x.double()
    seen = seen[seen.isfinite()]
    smallest, largest = (float(seen.min()), float(seen.max())) if seen.numel() else (0.0, 1.0)
    return smallest + (largest - smallest) * torch.rand(shape, generator=draw, dtype=torch.float64, device="cpu")


def _rows(x: Tensor, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """The example's own rows, in another order."""
    if not shape or not len(x):
        return x.clone()
    return x[torch.randint(len(x), (shape[0],), generator=draw, device="cpu")]
