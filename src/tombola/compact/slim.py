"""The network that a mask of whole channels leaves, made really smaller, so that it can go on training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.compact.compact import CompactReport, compact
from tombola.compact.positions import Kept, cut
from tombola.errors import TombolaError
from tombola.graph.copies import copied
from tombola.mask import Mask
from tombola.parameters import parameters_by_name

_SMALL = 1e-3
"""In place of a kept weight that happens to be 0, which is no reason to remove it."""


@dataclass(frozen=True, eq=False)
class Slim:
    """A network without the channels that a mask removes.

    Args:
        module: with the model's own names and no values of its own; `load` gives it some.
        kept: as `Compacted.kept`.
        mask: what is to be held at 0 in it: of a branch that the mask removes whole one channel is left, silent.
            None: nothing.
        report: what was removed.
    """

    module: nn.Module
    kept: Kept
    mask: Mask | None
    report: CompactReport

    def load(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The module with its part of a whole network's state_dict."""
        own = self.module.state_dict()
        self.module.load_state_dict(cut({name: state[name] for name in own}, self.kept))
        return self.module


def slim(model: nn.Module, mask: Mask, *example: Tensor) -> Slim:
    """Remove the channels that `mask` leaves without a reader; the model is copied, and not called.

    What is removed follows from the mask alone, not from the values of kept weights: in the module each tensor is a
    part of the model's.

    Args:
        mask: of whole channels, as `ChannelGroups.mask` gives.
        example: inputs as the network takes them, the batch first.

    Raises:
        TombolaError: the network cannot be traced, or would give other outputs.
    """
    probe = copied(model)
    with torch.no_grad():
        for parameter in parameters_by_name(probe).values():
            parameter[parameter == 0] = _SMALL
        mask.apply_(probe)
    small = compact(probe, *example, fold_norms=False, fold_constants=False)
    if small.report.reason is not None:
        raise TombolaError(
            f"the network cannot be made smaller: {small.report.reason}; rewrite its forward, or prune weights (imp)"
        )
    there = small.module.state_dict()
    left = Mask(cut({name: keep for name, keep in mask.items() if name in there}, small.kept))
    return Slim(small.module, small.kept, None if left.density == 1.0 else left, small.report)
