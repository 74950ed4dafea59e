"""What layers take in while the calibration data go through a network, added up in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.nn.forward import leaves
from tombola.nn.modes import in_mode
from tombola.prune.calibration import Calibration, Inputs
from tombola.prune.layers import Layer, OutputProjection
from tombola.prune.sparse_gpt import width_of_parts

Watcher = Callable[[Layer, nn.Module, tuple[Any, ...], Mapping[str, Any]], None]


class _Enough(BaseException):
    """Ends a pass whose rest is of no interest."""


@contextmanager
def watched(layers: Iterable[Layer], see: Watcher) -> Iterator[None]:
    """Within it `see` hears of every call of the layers, before it is made."""

    def hook(layer: Layer) -> Callable[..., None]:
        return lambda module, args, named: see(layer, module, args, named)

    handles = [
        module.register_forward_pre_hook(hook(layer), with_kwargs=True) for layer in layers for module in layer.calls
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and every module called where torch would pass modules over."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), in_mode(model, train=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def input_norms(model: nn.Module, layers: Mapping[str, Layer], calibration: Calibration) -> dict[str, Tensor]:
    """Weight name -> Euclidean norm of what each of its weights multiplies, over all examples and positions.

    In the weight's shape, float32; of a convolution over its patches, so that weights that meet the padding count less.
    Sums are float64.

    Raises:
        TombolaError: the data never reach a layer, or nothing shows what it takes in.
    """
    sums: dict[str, Tensor] = {}

    def see(layer: Layer, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        for columns in layer.columns(module, args, named):
            squares = torch.stack([part.double().square().sum(0) for part in columns])
            sums[layer.name] = sums[layer.name] + squares if layer.name in sums else squares

    with watching(model), watched(layers.values(), see):
        for batch in calibration.batches:
            batch.call(model)
    check_reached(layers, sums)
    for name, total in sums.items():
        check_finite(name, total)
    return {name: _spread(layers[name], total.sqrt().float()) for name, total in sums.items()}


def _spread(layer: Layer, norms: Tensor) -> Tensor:
    """(groups, inputs) -> the weight's shape."""
    rows = layer.rows(layer.weight.detach())
    return layer.weight_of(norms.unsqueeze(1).expand(rows.shape))


def gram_matrices(
    model: nn.Module, layers: Mapping[str, Layer], calibration: Calibration, calls: int, pattern: object = None
) -> dict[str, list[Tensor]]:
    """Weight name -> 2 X Xᵀ / N of what its layer takes in; N is the positions.

    For each group of the layer, and each of its parts of `width_of_parts` columns, (inputs, inputs) in float64.

    Args:
        layers: those whose matrices are held at a time.
        calls: of these layers in one pass; what follows the last is left out.
        pattern: whose groups of N:M no part cuts.
    """
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}

    def run(batch: Inputs) -> None:
        left = calls

        def see(layer: Layer, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            nonlocal left
            for columns in layer.columns(module, args, named):
                parts = [part for x in columns for part in torch.split(x, width_of_parts(x.shape[1], pattern), dim=1)]
                if layer.name not in sums:
                    sums[layer.name] = [part.new_zeros(2 * part.shape[1:], dtype=torch.float64) for part in parts]
                for total, part in zip(sums[layer.name], parts, strict=True):
                    total += _product(part)
                counts[layer.name] = counts.get(layer.name, 0) + len(columns[0])
            left -= 1
            if left == 0:
                raise _Enough

        with watched(layers.values(), see), suppress(_Enough):
            batch.call(model)

    with watching(model):
        for batch in calibration.batches:
            run(batch)
    check_reached(layers, sums)
    for name, totals in sums.items():
        for total in totals:
            check_finite(name, total)
    return {name: [total.mul_(2 / max(counts[name], 1)) for total in totals] for name, totals in sums.items()}


def _product(columns: Tensor) -> Tensor:
    x = columns.float()  # half precision would overflow
    return (x.t() @ x).double()


def order_of_calls(model: nn.Module, layers: Mapping[str, Layer], calibration: Calibration) -> list[dict[str, int]]:
    """Groups of layers, each a dict from weight name to its calls in one pass, in the order in which they are called.

    Layers that take in the very same tensor one after another, such as query, key and value, are one group; the last
    projection of nn.MultiheadAttention, which is called with it, is not. A layer that is called several times stands
    where it is first called.
    """
    groups: list[dict[str, int]] = []
    places: dict[str, int] = {}
    last: list[Any] = [None]

    def see(layer: Layer, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        x = None if isinstance(layer, OutputProjection) else leaves([args, dict(named)])[0]
        if layer.name not in places:
            if x is None or x is not last[0]:
                groups.append({})
            places[layer.name] = len(groups) - 1
        group = groups[places[layer.name]]
        group[layer.name] = group.get(layer.name, 0) + 1
        last[0] = x

    with watching(model), watched(layers.values(), see):
        calibration.batches[0].call(model)
    check_reached(layers, places)
    return groups


def check_finite(name: str, total: Tensor) -> None:
    """TombolaError where what a layer took in adds up to a number that is none."""
    if not bool(total.isfinite().all()):
        raise TombolaError(
            f"what {name!r} takes in on the calibration data is NaN, infinite or too large; give data on which the "
            "network's values are finite, or prune by magnitude"
        )


def check_reached(layers: Mapping[str, Layer], reached: Iterable[str]) -> None:
    """TombolaError for layers whose inputs no calibration batch has shown."""
    found = set(reached)
    for name, layer in layers.items():
        if name not in found and not layer.calls:
            raise TombolaError(
                f"nothing shows what {name!r} multiplies; leave it out with exclude, or prune it by magnitude"
            )
        if name not in found:
            raise TombolaError(
                f"the calibration data never reach {name!r}; leave it out with exclude, or give data that use it"
            )
