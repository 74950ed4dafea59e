"""Training all weights: no pruning at all, the arm that other methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Method, binary_form, with_norms
from tombola.methods.imp import IterativePruning

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec


@dataclass(frozen=True)
class DenseTraining(Method):
    """Train all weights: one level, whose ticket keeps everything.

    Args:
        activations: float, or binary (one of Tombola's own networks in its binary form, its norms trained)
        norms: give one of Tombola's own networks norms with scales where it has none by default, as early-bird does
    """

    name: ClassVar[str] = "dense"
    version: ClassVar[int] = 1
    prunes: ClassVar[bool] = False
    goes_on_from_tickets: ClassVar[bool] = True

    activations: str = "float"
    norms: bool = False

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        formed = binary_form(spec, "binary", affine=True) if self.activations == "binary" else spec
        return with_norms(formed) if self.norms else formed

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Train the network once; the only level holds it."""
        return _UNPRUNED.find(search)

    def dry_run(self, search: levels.Search) -> None:
        """One step on a copy; TombolaError for what cannot work."""
        _UNPRUNED.dry_run(search)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if the network has no prunable weight, of which the ticket could keep all."""
        from tombola.nn.binary import BinaryActivation

        binary = any(isinstance(module, BinaryActivation) for module in network.modules())
        if self.activations == "binary" and not binary:
            raise TombolaError("activations are binary, but the network's are not; rewrite it before the search")
        _UNPRUNED.check(network, steps_per_epoch, total, mask)


_UNPRUNED = IterativePruning(levels=0)  # the pruning loop with nothing after its dense level
