"""Training all weights: no pruning at all, the arm that other methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola.methods.imp import IterativePruning

if TYPE_CHECKING:
    from torch import nn

    from tombola.train.search import Level, Search


@dataclass(frozen=True)
class DenseTraining:
    """Train all weights: one level, whose ticket keeps everything."""

    name: ClassVar[str] = "dense"
    version: ClassVar[int] = 1

    def find(self, search: Search) -> list[Level]:
        """Train the network once; the only level holds it."""
        return _UNPRUNED.find(search)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int) -> None:
        """TombolaError if the network has no prunable weight, of which the ticket could keep all."""
        _UNPRUNED.check(network, steps_per_epoch, total)


_UNPRUNED = IterativePruning(levels=0)  # the pruning loop with nothing after its dense level
