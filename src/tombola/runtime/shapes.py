"""Shapes of the values in a traced network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp


def propagate(network: fx.GraphModule, example: Sequence[Tensor]) -> None:
    """Write shape, dtype and device of every value into its node."""

    class Devices(ShapeProp):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            n.meta["device"] = result.device.type if isinstance(result, Tensor) else None
            return result

    with torch.no_grad():
        Devices(network).propagate(*example)  # type: ignore[no-untyped-call]
