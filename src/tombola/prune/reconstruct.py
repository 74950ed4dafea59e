"""Layer by layer through a network, each pruned and made up for with what the pruned layers before it send."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.prune.calibration import Calibration
from tombola.prune.heads import Heads
from tombola.prune.layers import Layer
from tombola.prune.sparse_gpt import sparse_gpt, width_of_parts
from tombola.prune.watch import check_reached, gram_matrices, order_of_calls
from tombola.select.patterns import NM, Block, Element, Inputs, Pattern


@torch.no_grad()
def reconstruct_(
    model: nn.Module,
    layers: Mapping[str, Layer],
    calibration: Calibration,
    density: float | Mapping[str, float] | None,
    pattern: Pattern | Heads,
) -> Mask:
    """Prune the layers by `sparse_gpt`, in place and in the order in which they are called; their mask.

    The calibration data go through the network once for each group of layers that take in the same tensor, up to the
    group. Held at a time are the matrices of one group, inputs² float64 for each of its layers (and for each group of a
    convolution), at most 128 MB for each layer, and about as much again to invert one. A layer of more than 4,096
    inputs is cut into parts, none of which makes up for another.

    Raises:
        TombolaError: a layer that the data never reach, or whose inputs nothing shows.
    """
    assert isinstance(pattern, Element | Block | Inputs | NM)
    for name, layer in layers.items():
        if layer.weight.is_complex():
            raise TombolaError(f"{name!r} is complex, and sparse_gpt takes real weights; leave it out with exclude")
        if isinstance(pattern, Inputs) and layer.weight.shape[2:].numel() > 1:
            raise TombolaError(
                f"{name!r} has a kernel of several positions, over which sparse_gpt has no pattern {pattern}; take "
                "magnitude or wanda, or leave it out with exclude"
            )
    check_reached(layers, [name for name, layer in layers.items() if layer.calls])
    masks: dict[str, Tensor] = {}
    for group in order_of_calls(model, layers, calibration):
        together = {name: layers[name] for name in group}
        grams = gram_matrices(model, together, calibration, sum(group.values()), pattern)
        for name, layer in together.items():
            share = density[name] if isinstance(density, Mapping) else density
            rows = layer.rows(layer.weight.detach())
            if bad := int((~rows.isfinite()).sum()):
                raise TombolaError(
                    f"{bad:,} of {rows.numel():,} weights of {name!r} are NaN or infinite; did training diverge?"
                )
            width = width_of_parts(rows.shape[2], pattern)
            rows, kept = sparse_gpt(rows, grams.pop(name), float(share or 1), pattern, width=width)
            layer.weight.copy_(layer.weight_of(rows))
            masks[name] = layer.weight_of(kept)
    return Mask({name: masks[name] for name in layers})
