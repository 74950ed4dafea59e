"""A mask learned in rounds, each of which goes on from the scores of the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tombola.levels.learn import Learning, learn_mask
from tombola.levels.rewind_point import kept_snapshot
from tombola.levels.search import Level, Search
from tombola.supermask.layers import layers
from tombola.supermask.masks import refresh
from tombola.ticket.origin import Origin


def learn_in_rounds(
    search: Search,
    learning: Learning,
    rounds: int,
    carry: Callable[[Tensor], Tensor],
    *,
    back_to: Origin | None = None,
    rewound_steps: int = 0,
) -> list[Level]:
    """Levels 1 to `rounds`: a whole training each, with a fresh optimiser and schedule.

    Args:
        carry: scores at the end of a round -> scores that the next one begins with, in their shape.
        back_to: where all weights return to after a round, with norms and buffers; None: they go on.
        rewound_steps: the iteration of the dense training that `back_to` is from.
    """
    found: list[Level] = []
    for number in range(1, rounds + 1):
        rewound = bool(found) and back_to is not None
        level = learn_mask(
            replace(search, origin=back_to) if rewound and back_to is not None else search,
            learning,
            level=number,
            rewound_steps=rewound_steps if rewound else 0,
            label=f"round {number} of {rounds}",
            begin=_going_on(search, found[-1], carry, weights=not rewound) if found else None,
            capture=number < rounds,
        )
        found.append(level)
    return found


def _going_on(
    search: Search, before: Level, carry: Callable[[Tensor], Tensor], *, weights: bool
) -> Callable[[nn.Module], None]:
    """Puts the scores, and with `weights` everything else, that a level ended with into an attached network."""

    @torch.no_grad()
    def begin(model: nn.Module) -> None:
        snapshot = kept_snapshot(search, before)
        assert snapshot is not None
        own = model.state_dict()
        kept = {name for name in own if weights or name.endswith(".scores")}
        model.load_state_dict({**own, **{name: snapshot.model[name] for name in kept}})
        for layer in layers(model):
            layer.supermask.scores.copy_(carry(layer.supermask.scores))
        refresh(model)

    return begin
