"""Training all weights: no pruning at all, the arm that other methods are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import HAND_ON, Method, binary_form, with_dropout, with_norms
from tombola.methods.imp import IterativePruning
from tombola.names import check_known

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
        dropout: probability of dropout before the hidden layers' linear successors, in one of Tombola's own networks
            that takes it; 0 leaves the network as it is
        hand_on: last, or best: the network of the lowest validation loss, as early stopping gives it
    """

    name: ClassVar[str] = "dense"
    version: ClassVar[int] = 1
    prunes: ClassVar[bool] = False
    goes_on_from_tickets: ClassVar[bool] = True

    activations: str = "float"
    norms: bool = False
    dropout: float = 0.0
    hand_on: str = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("hand_on", self.hand_on, HAND_ON)
        if not 0 <= self.dropout < 1:
            raise TombolaError(f"dropout is {self.dropout}; it must lie in [0, 1): the probability of a 0")

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        formed = binary_form(spec, "binary", affine=True) if self.activations == "binary" else spec
        normed = with_norms(formed) if self.norms else formed
        return with_dropout(normed, self.dropout) if self.dropout else normed

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Train the network once; the only level holds it."""
        if self.hand_on == "last":
            return _UNPRUNED.find(search)
        from tombola.levels.prune import prune_levels

        return prune_levels(search, replace(_UNPRUNED.pruning(), best=True))

    def dry_run(self, search: levels.Search) -> None:
        """One step on a copy; TombolaError for what cannot work."""
        if self.hand_on == "best":
            levels.check_evaluations(search.setup)
        _UNPRUNED.dry_run(search)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if the network has no prunable weight, of which the ticket could keep all."""
        from tombola.nn.rewrite import has_binary_activations

        if self.activations == "binary" and not has_binary_activations(network):
            raise TombolaError("activations are binary, but the network's are not; rewrite it before the search")
        if self.dropout and not any(type(module).__name__.endswith("Dropout") for module in network.modules()):
            raise TombolaError(
                f"dropout is {self.dropout:g}, but the network has none; leave it out, or put dropout into the network"
            )
        _UNPRUNED.check(network, steps_per_epoch, total, mask)


_UNPRUNED = IterativePruning(levels=0)  # the pruning loop with nothing after its dense level
