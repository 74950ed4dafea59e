"""Shapes of the values in a traced network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from tombola.compact.inputs import batch_axes


def propagate(network: fx.GraphModule, example: Sequence[Tensor]) -> None:
    """Write shape, dtype and device of every value into its node."""

    class Devices(ShapeProp):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            n.meta["device"] = result.device.type if isinstance(result, Tensor) else None
            return result

    with torch.no_grad():
        Devices(network).propagate(*example)  # type: ignore[no-untyped-call, unused-ignore]


def without_batch(network: fx.GraphModule, example: Sequence[Tensor]) -> set[fx.Node]:
    """The tensors that do not grow with the batch: parameters, statistics over the batch. Shapes must be written.

    The set is empty where the network runs at the example's batch size only.
    """
    for carries in batch_axes(example):
        twice = [torch.cat([x, x]) if own else x for x, own in zip(example, carries, strict=True)]
        try:
            return _not_doubled(network, twice)
        except Exception:  # whatever a network raises at other batch sizes
            continue
    return set()


def _not_doubled(network: fx.GraphModule, twice: Sequence[Tensor]) -> set[fx.Node]:
    fixed: set[fx.Node] = set()

    class Sizes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            before = getattr(n.meta.get("tensor_meta"), "shape", None)
            if isinstance(result, Tensor) and before and result.shape != (2 * before[0], *before[1:]):
                fixed.add(n)
            return result

    with torch.no_grad():
        Sizes(network).run(*twice)
    return fixed
