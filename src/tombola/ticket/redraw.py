"""An origin's network at other initial weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from tombola.rng.seeds import derive, generator
from tombola.ticket.origin import Origin


def redrawn(
    origin: Origin, names: Iterable[str], seed: int, architecture: nn.Module | None = None, trusted: Sequence[str] = ()
) -> nn.Module:
    """The network with new initial weights, in training mode.

    By the origin's initialisation scheme where it is known. Else (a user's own or pretrained weights) the values of
    every layer in `names` are permuted over all its positions, a draw from the same empirical distribution
    (Zhou et al. 2019, "reinit"), and all other parameters stay.
    """
    model = origin.network_module(architecture, trusted)
    if origin.init is not None:
        fresh = Origin.seeded(
            origin.network, origin.init, derive(seed, "reinit"), model=model, init_args=origin.init_args
        )
        return fresh.network_module(model, trusted)
    draw = generator(seed, "reinit")
    state: dict[str, Tensor] = dict(model.state_dict())
    for name in names:
        values = state[name].flatten()
        state[name] = values[torch.randperm(len(values), generator=draw, device=draw.device)].view_as(state[name])
    model.load_state_dict(state)
    return model
