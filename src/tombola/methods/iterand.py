"""IteRand (Chijiwa et al. 2021): edge-popup whose pruned weights are drawn anew now and then.

`IteRand.redrawn` is what it adds. The authors redraw every 300 iterations with probability 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import check_fraction, is_nothing
from tombola.methods.edge_popup import EdgePopup
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.train.hooks import Hook


@dataclass(frozen=True)
class IteRand(EdgePopup):
    """Edge-popup that redraws some of the pruned weights every few iterations; kept weights never change.

    A weight is drawn from what it was first drawn from. Where that is not known (a live model, a checkpoint) it is
    one of the layer's own first values, picked at random. Kept weights that were drawn anew before are in the
    ticket as trained values.

    Args:
        every: how often pruned weights are redrawn, e.g. "300it" or "1ep"
        probability: probability with which each of them is redrawn
    """

    name: ClassVar[str] = "iterand"
    version: ClassVar[int] = 1

    scores: str = "kaiming_uniform"
    every: str = "300it"
    probability: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_nothing(self.every):
            raise TombolaError(f"every is {self.every}; it must be at least one iteration, e.g. 300it")
        check_fraction(probability=self.probability)

    def redrawn(self, w: Tensor, mask: Tensor, fresh: Tensor, u: Tensor) -> Tensor:
        """The weights after the redrawing of every `every` iterations; else a step is that of edge-popup."""
        drawn = (mask == 0) & (u < self.probability)
        return fresh.where(drawn, w)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        if steps(self.every, steps_per_epoch) < 1:
            raise TombolaError(f"every is {self.every}, not one of {steps_per_epoch} iterations an epoch; ask for more")
        super().check(network, steps_per_epoch, total, mask)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """Edge-popup's, and that which draws pruned weights anew."""
        every = steps(self.every, search.setup.steps_per_epoch)
        redraw = levels.Redraw(fresh_weights(search), every=every, probability=self.probability, seed=search.seed)
        return [*super().hooks(search), redraw]


def fresh_weights(search: levels.Search) -> Callable[[int], Mapping[str, Tensor]]:
    """step -> every parameter (of a stored origin: every tensor), by name, drawn as the search's origin was.

    The draws follow from the search's seed, the step and the name.
    """
    import torch

    from tombola.nn.init import initialise_
    from tombola.parameters import parameters_by_name
    from tombola.rng.seeds import derive, generator

    origin = search.origin
    if origin.tensors is None and origin.init is not None:
        scheme, twin = origin.init, search.network()

        def drawn(step: int) -> Mapping[str, Tensor]:
            initialise_(twin, scheme, derive(search.seed, "redraw", step), **origin.init_args)
            return parameters_by_name(twin)

        return drawn
    first = {name: parameter.detach() for name, parameter in parameters_by_name(search.network()).items()}

    def picked(step: int) -> Mapping[str, Tensor]:
        def pick(name: str, values: Tensor) -> Tensor:
            draw = generator(search.seed, "redraw", step, name)
            return values.flatten()[torch.randint(values.numel(), values.shape, generator=draw, device=draw.device)]

        return {name: pick(name, values) for name, values in first.items() if values.numel()}

    return picked
