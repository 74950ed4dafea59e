"""Pruning at initialisation: a mask drawn from a network that nothing has trained, in one step or in several."""

from __future__ import annotations

import warnings
from functools import partial

import torch

from tombola.data.probe import some_inputs
from tombola.hold import hold
from tombola.levels.context import contexts_untrained
from tombola.levels.prune import Pruning, plan_levels, selected
from tombola.levels.search import Level, Search
from tombola.levels.stage import check_connected, ticket_of, train_under
from tombola.levels.validate import check_ticket
from tombola.mask import Mask
from tombola.rng.seeds import generator
from tombola.select.barred import warn_of_barred, warn_of_ties
from tombola.select.patterns import NM, Pattern
from tombola.select.select import Selection, selection
from tombola.train.dry_run import try_training


def prune_untrained(search: Search, pruning: Pruning, *, shuffle: bool = False) -> Level:
    """Level 1: the mask of `untrained_mask`, and the network trained under it from its initial weights."""
    return train_under(search, partial(untrained_mask, search, pruning, shuffle))


def untrained_mask(search: Search, pruning: Pruning, shuffle: bool = False) -> Selection:
    """For every level of the plan but the first, score the network under the mask so far, and keep the largest.

    Args:
        shuffle: then draw the positions of every layer anew: see `shuffled`.
    """
    begin, plan = plan_levels(search.network(), pruning, search.mask, some_inputs(search.setup.splits))
    contexts, chosen = contexts_untrained(search), Selection(begin, {}, {}, {})
    for number, counts in enumerate(plan[1:], 1):
        chosen = selected(search, pruning, contexts(chosen.mask, number), chosen.mask, counts)
    if shuffle:
        return shuffled(chosen.mask, begin, pruning.pattern, generator(search.seed, "layer-shuffled"))
    warn_of_barred(chosen.mask, chosen.barred, chosen.drawn, "")
    warn_of_ties(chosen.mask, chosen.tied, "")
    return chosen


def shuffled(mask: Mask, begin: Mask, pattern: Pattern, draws: torch.Generator) -> Selection:
    """As many units of every layer at random positions, of those that `begin` keeps.

    The layer-shuffled control of Frankle et al. 2021, "Pruning Neural Networks at Initialization: Why Are We Missing
    the Mark?": what it loses lay in the choice within layers, what it keeps in their densities.
    """
    scores = {
        name: torch.rand(kept.shape, generator=draws, dtype=torch.float64, device=draws.device)
        for name, kept in mask.items()
    }
    counts = None if isinstance(pattern, NM) else {n: int(pattern.whole(kept).sum()) for n, kept in mask.items()}
    return selection(scores, counts=counts, pattern=pattern, candidates=begin)


def dry_run(search: Search, pruning: Pruning, *, shuffle: bool = False) -> None:
    """One step, one ticket and one scoring, on copies: what cannot work says so before anything is trained."""
    model = search.network()
    mask, plan = plan_levels(model, pruning, search.mask, some_inputs(search.setup.splits))
    with hold(model, mask):
        state = try_training(search.setup, model, seed=search.seed)
    check_ticket(search, ticket_of(search, 1, mask, state), model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when it counts
        if len(plan) > 2:  # one scoring of many
            selected(search, pruning, contexts_untrained(search)(mask, 1), mask, plan[1])
        else:
            chosen = untrained_mask(search, pruning, shuffle)
            check_connected(search, chosen.mask, "under the mask", "a higher density, or a layerwise scope")
