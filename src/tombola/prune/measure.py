"""What pruning did to outputs: of every layer for what it took in before, and of the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tombola.nn.forward import leaves
from tombola.prune.calibration import Calibration
from tombola.prune.layers import Layer
from tombola.prune.watch import watching


class Error:
    """|a - b|² / |a|², added up over batches in float64."""

    def __init__(self) -> None:
        self._difference = self._size = 0.0

    def add(self, before: Any, after: Any) -> None:
        """Outputs of any nesting; what holds no floats does not count."""
        for a, b in zip(leaves(before), leaves(after), strict=True):
            if a.is_floating_point() or a.is_complex():
                self._difference += _squares(a - b)
                self._size += _squares(a)

    @property
    def value(self) -> float:
        """0 where nothing changed, inf where outputs that were all 0 did."""
        return self._difference / self._size if self._size else float("inf") if self._difference else 0.0


def _squares(x: Tensor) -> float:
    return float((x.abs() if x.is_complex() else x).double().square().sum())


@torch.no_grad()
def likeness(before: nn.Module, after: nn.Module, calibration: Calibration) -> float:
    """How much outputs of two networks correlate over the examples of a batch, -1 to 1: a scale does not count.

    Of each output number the batch's mean is taken away, but for batches of one example. What holds no floats does not
    count; 0 where one of the networks gives the same for all examples, and where outputs are not finite.
    """
    product = own = other = 0.0
    with watching(before), watching(after):
        for batch in calibration.batches:
            for a, b in zip(leaves(batch.call(before)), leaves(batch.call(after)), strict=True):
                if a.is_floating_point():
                    a, b = (_centred(x.double()) for x in (a, b))
                    product += float((a * b).sum())
                    own += float(a.square().sum())
                    other += float(b.square().sum())
    size = (own * other) ** 0.5
    return product / size if math.isfinite(size) and size > 0 else 0.0


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0) if x.dim() and len(x) > 1 else x


@torch.no_grad()
def output_errors(
    before: nn.Module,
    after: nn.Module,
    layers: Mapping[str, Layer],
    calibration: Calibration,
) -> tuple[dict[str, float], float]:
    """Weight name -> squared error of its layer's output over that output's squares, and the same of the network's.

    A layer's error is for what it takes in in the network `before`: that of its own pruning, without what comes to it.
    One batch and one layer are held at a time.

    Args:
        before, after: the network before and after pruning, whose modules have the same paths.
        layers: of `after`.
    """
    paths = {module: path for path, module in after.named_modules()}
    pairs = {paths[module]: module for layer in layers.values() for module in layer.calls}
    errors = {path: Error() for path in pairs}
    whole = Error()

    def compare(path: str, module: nn.Module) -> Callable[..., None]:
        def hook(own: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            errors[path].add(output, module(*args, **named))

        return hook

    handles = [
        before.get_submodule(path).register_forward_hook(compare(path, module), with_kwargs=True)
        for path, module in pairs.items()
    ]
    try:
        with watching(before), watching(after):
            for batch in calibration.batches:
                whole.add(batch.call(before), batch.call(after))
    finally:
        for handle in handles:
            handle.remove()
    found = {name: [errors[paths[module]].value for module in layer.calls] for name, layer in layers.items()}
    return {name: max(values) for name, values in found.items() if values}, whole.value
