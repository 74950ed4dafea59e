"""What a search tells a criterion."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from tombola.levels.search import Level, Search
from tombola.levels.stage import final_state
from tombola.mask import Mask
from tombola.nn.forward import Batch, typed
from tombola.parameters import prunable
from tombola.rng.seeds import generator
from tombola.select.criteria import At, Context
from tombola.ticket.ticket import Ticket
from tombola.train.feeds import training_feed
from tombola.train.gradient import Probe


def context_of(search: Search, after: Level | None = None) -> Context:
    """What a criterion may look at: at the start of a search, or after a level, whose weights are the final ones.

    Over all weights that are prunable by default, or that the level's mask (a ticket's to go on from) is over.
    """
    if after is not None:
        return context_after(search, after.level, after.ticket)
    mask = search.mask or Mask.full(prunable(search.network()))
    return _context(search, mask, 0, None)


def context_after(search: Search, level: int, ticket: Ticket) -> Context:
    """What a criterion may look at after the level that gave this ticket."""
    return _context(search, ticket.mask, level, ticket)


def _context(search: Search, mask: Mask, level: int, ticket: Ticket | None) -> Context:
    initial = search.state()
    final = initial if ticket is None else final_state(search, ticket)

    def fresh(at: At) -> nn.Module:
        model = search.network()
        if at == "final":
            model.load_state_dict(final)
        mask.apply_(model)
        return model

    def feed(model: nn.Module) -> Iterator[Batch]:
        batches = training_feed(search.setup.splits, search.setup.recipe, torch.device("cpu"), False)
        return typed(batches.epoch(search.seed, 0), model)

    probe = Probe(fresh, tuple(mask), feed, search.setup.splits.task.loss, search.seed)
    return Context(
        initial={name: initial[name] for name in mask},
        final={name: final[name] for name in mask},
        gradient=partial(probe.gradient, "initial", 1),
        generator=generator(search.seed, "criterion", level),
        mask=mask,
        probe=probe,
    )
