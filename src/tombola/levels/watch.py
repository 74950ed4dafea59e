"""The masks of the levels of a search, watched: what each level reads, and what its detector compares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tombola.levels.detector import Watching
from tombola.levels.measures import LIKENESS, displacement, unlikeness
from tombola.levels.search import Level, Search
from tombola.levels.stability import MOST_READS, Measure, WatchMasks
from tombola.levels.stage import final_state
from tombola.mask import Mask
from tombola.parameters import parameters_by_name
from tombola.results.trial import MaskHistory
from tombola.select.criteria import Context
from tombola.supermask.layers import layers
from tombola.supermask.masks import final_masks
from tombola.train.state import Loop


def watch_next_mask(
    search: Search,
    watching: Watching,
    context: Callable[[nn.Module], Context],
    mask: Mask,
    density: float,
    select: Callable[[Context], Mapping[str, Tensor]],
    dense: Level | None,
) -> WatchMasks:
    """While a level trains under `mask`: the mask that the next one would be given now.

    Args:
        context: what a criterion may look at, of the network as it stands.
        density: fraction of the units that the next level keeps.
        select: the next level's mask, of what a criterion may look at.
        dense: level 0, where this is a later one.
    """

    def read(loop: Loop) -> Mapping[str, Tensor] | None:
        now = context(loop.model)
        if not all(bool(torch.isfinite(weight).all()) for weight in now.final.values()):
            return None  # which the loop says
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are meant for when the mask is drawn
            return select(now)

    def kept_weights(loop: Loop) -> Mapping[str, Tensor]:
        weights = parameters_by_name(loop.model)
        return {name: weights[name].detach() * mask[name].to(weights[name].device) for name in mask}

    kind = watching.detector.kind
    if kind in LIKENESS and dense is None:  # the network to be like is trained here
        return _hook(read, density, watching, None, judged=False)
    measure: Measure | None = None
    if kind in LIKENESS and dense is not None:
        reference = search.network()
        reference.load_state_dict(final_state(search, dense.ticket))
        measure = unlikeness(LIKENESS[kind], reference, dense.ticket.mask, mask, search.setup.splits)
    elif kind == "displacement":
        measure = displacement(kept_weights)
    return _hook(read, density, watching, measure)


def watch_learned_mask(watching: Watching, density: float | None) -> WatchMasks:
    """While scores are learned: the masks as they stand, of stochastic rules the p > 0.5 masks; goes after `Refresh`.

    Displacement is that of the scores.
    """

    def read(loop: Loop) -> Mapping[str, Tensor]:
        with final_masks(loop.model):
            return {layer.name: layer.supermask.mask != 0 for layer in layers(loop.model)}

    def scores(loop: Loop) -> Mapping[str, Tensor]:
        return {layer.name: layer.supermask.scores for layer in layers(loop.model)}

    return _hook(read, density, watching, displacement(scores) if watching.detector.kind == "displacement" else None)


def _hook(
    read: Callable[[Loop], Mapping[str, Tensor] | None],
    density: float | None,
    watching: Watching,
    measure: Measure | None,
    judged: bool = True,
) -> WatchMasks:
    stop = watching.stop and judged
    return WatchMasks(
        read,
        unit="weights",
        density=density,
        detector=watching.detector if judged else None,
        stop=stop,
        measure=measure,
        most=None if stop else MOST_READS,
        begin=watching.begin,
    )


def histories(hook: WatchMasks | None) -> tuple[MaskHistory, ...] | None:
    """What a level records of its masks; None where none was read."""
    found = None if hook is None else hook.history()
    return None if found is None or not found.steps else (found,)
