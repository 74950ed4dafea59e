"""Masks alone: drawn from a trained dense network, then tested on weights that nothing trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from torch import Tensor

from tombola.levels.actions import deviation
from tombola.levels.prune import Pruning, one_shot_masks, prune_levels
from tombola.levels.search import Level, Search
from tombola.levels.stage import TrainedLevel, run_level, ticket_of
from tombola.mask import Mask
from tombola.rng.seeds import derive
from tombola.runs.stage import Stage
from tombola.select.select import Selection
from tombola.ticket.representation import Representation
from tombola.train.norms import renew_norm_statistics
from tombola.train.trial import evaluate_trial

Weights = Callable[[Mapping[str, Tensor], Mask], Representation]
"""Initial weights and what is masked -> what they stand for under the mask."""


def initial(weights: Mapping[str, Tensor], mask: Mask) -> Representation:
    """w_i itself."""
    return Representation()


def signed_constant(weights: Mapping[str, Tensor], mask: Mask) -> Representation:
    """sign(w_i) times the standard deviation of the layer's initial weights (Zhou et al. 2019); sign(0) = 0."""
    return Representation("signed_constant", {name: deviation(weights[name]) for name in mask})


WEIGHTS: Mapping[str, Weights] = MappingProxyType({"init": initial, "signed_constant": signed_constant})
"""Name -> what a mask is tested on."""


def untrained_levels(search: Search, pruning: Pruning, weights: Weights) -> list[Level]:
    """Level 0 trains the dense network; each later one draws a mask from it, and tests that on untrained weights.

    The tickets of the later levels hold no trained weight. Norm layers take their statistics from training batches.
    """
    first = replace(pruning, plan=lambda *given: pruning.plan(*given)[:1])
    (dense,) = prune_levels(search, first)
    levels = [dense]
    for number, draw in one_shot_masks(search, pruning, dense):
        levels.append(run_level(search, number, partial(_test, search, number, draw, weights)))
    return levels


def _test(
    search: Search, number: int, draw: Callable[[], Selection], weights: Weights, stage: Stage | None
) -> TrainedLevel:
    chosen, base = draw(), search.state()
    representation = weights(base, chosen.mask)
    bare = ticket_of(search, number, chosen.mask, base, representation=representation)
    model = bare.build("origin", model=search.architecture, trusted=search.trusted).to(search.setup.fabric.device)
    renew_norm_statistics(model, search.setup, derive(search.seed, "untrained", number))
    trial = evaluate_trial(search.setup, model, stage=stage)
    buffers = {name for name, _ in model.named_buffers()}
    state = {name: trial.trained.state[name] if name in buffers else value for name, value in base.items()}
    ticket = ticket_of(search, number, chosen.mask, state, representation=representation, barred=chosen.barred)
    return TrainedLevel(trial, ticket, chosen.barred, tied_kept=sum(chosen.tied.values()))
