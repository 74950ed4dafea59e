"""Tickets of channels: drawn from the scales of norms while a network trains, then trained as a smaller network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tombola.compact import ChannelGroups, channel_groups, scatter
from tombola.compact.slim import slim
from tombola.data.probe import some_inputs
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.levels.carry import small_snapshot
from tombola.levels.detector import Watching
from tombola.levels.draw import Draw, ScalePressure
from tombola.levels.measures import displacement
from tombola.levels.search import Level, Search
from tombola.levels.stability import WatchMasks
from tombola.levels.stage import TrainedLevel, run_level, ticket_of
from tombola.levels.validate import check_ticket
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.results.trial import ChannelCount
from tombola.rng.seeds import generator
from tombola.runs.stage import REWIND, Stage
from tombola.select.select import select
from tombola.ticket.origin import Origin
from tombola.train.checkpoint import Snapshot, State, load_snapshot
from tombola.train.connectivity import is_cut
from tombola.train.dry_run import try_training
from tombola.train.fabric import like
from tombola.train.length import END, steps
from tombola.train.state import Loop
from tombola.train.trial import TrainingSetup, train_trial


@dataclass(frozen=True)
class ChannelPruning:
    """The axes of a search for a ticket of channels.

    Args:
        density: fraction of the units of channels that the ticket keeps.
        watching: when the ticket is drawn, and whether the search ends then.
        pressure: strength of the L1 penalty on the norms' scales.
        watch: further densities whose masks are watched beside.
        draw_at: the length at which the ticket is drawn instead, or "end"; None: when it is stable.
        precision: of the search alone; None: the recipe's.
        scratch: train the small network from the initial weights, and not on from where the ticket was drawn.
        residual: prune the channels of residual streams too.
    """

    density: float
    watching: Watching
    pressure: float = 1e-4
    watch: tuple[float, ...] = ()
    draw_at: str | None = None
    precision: str | None = None
    scratch: bool = False
    residual: bool = False


def kept_channels(scores: Tensor, density: float) -> Tensor:
    """The round(density·n) units of the largest score, over the whole network; bool (n,)."""
    return select({"channels": scores}, density=density)["channels"]


# ---- level 0: the search ------------------------------------------------------------------------------------


def draw_channels(search: Search, pruning: ChannelPruning) -> Level:
    """Level 0: the dense network under pressure, until the mask of its channels is stable."""

    def train(stage: Stage | None) -> TrainedLevel:
        groups = _groups(search, pruning)
        setup, watches = _search_setup(search, pruning), _watches(groups, pruning)
        draw = Draw(watches[0], _draw_step(search, pruning), stop=pruning.watching.stop)
        model = search.network()
        trial = train_trial(
            setup,
            model,
            seed=search.seed,
            label="level 0  search",
            hooks=(ScalePressure(pruning.pressure), *watches, draw),
            stage=stage,
        )
        assert draw.drawn is not None
        trial = replace(trial, trained=replace(trial.trained, captured=draw.drawn))
        return TrainedLevel(
            trial,
            ticket_of(search, 0, Mask.full(prunable(model)), trial.trained.state),
            mask_histories=tuple(watch.history() for watch in watches),
            channels=ChannelCount(kept=groups.count, total=groups.count),
        )

    return run_level(search, 0, train)


def _groups(search: Search, pruning: ChannelPruning) -> ChannelGroups:
    return channel_groups(search.network(), some_inputs(search.setup.splits), residual=pruning.residual)


def _search_setup(search: Search, pruning: ChannelPruning) -> TrainingSetup:
    setup, precision = search.setup, pruning.precision
    if precision is None or precision == setup.recipe.precision:
        return setup
    fabric = like(setup.fabric, precision)
    return replace(setup, recipe=replace(setup.recipe, precision=precision), fabric=fabric)


def _draw_step(search: Search, pruning: ChannelPruning) -> int | None:
    if pruning.draw_at == END:
        return search.setup.total_steps
    return None if pruning.draw_at is None else steps(pruning.draw_at, search.setup.steps_per_epoch)


def _watches(groups: ChannelGroups, pruning: ChannelPruning) -> list[WatchMasks]:
    """The ticket's own mask first."""
    decides = pruning.watching.stop and pruning.draw_at is None
    return [
        _watch(groups, density, pruning.watching, stop=decides and number == 0)
        for number, density in enumerate((pruning.density, *pruning.watch))
    ]


def _watch(groups: ChannelGroups, density: float, watching: Watching, *, stop: bool) -> WatchMasks:
    def scales(loop: Loop) -> Mapping[str, Tensor]:
        return {name: loop.model.get_parameter(name) for name in groups.scales}

    def read(loop: Loop) -> Mapping[str, Tensor] | None:
        scores = groups.scores(scales(loop))
        return {"channels": kept_channels(scores, density)} if bool(scores.isfinite().all()) else None

    return WatchMasks(
        read,
        unit="channels",
        density=density,
        detector=watching.detector,
        stop=stop,
        measure=displacement(scales) if watching.detector.kind == "displacement" else None,
    )


# ---- level 1: the network made smaller ----------------------------------------------------------------------


def train_small(search: Search, pruning: ChannelPruning, drawn: Level) -> Level:
    """Level 1: the network without the channels that the ticket drops, trained on or from the start.

    It goes on along the schedule from where the ticket was drawn, with the optimiser's state and the pressure; a ticket
    that was drawn at the end of the schedule goes through it once more. The level's ticket is over the whole network.

    Raises:
        TombolaError: the mask leaves no path from the input to the output.
    """

    def train(stage: Stage | None) -> TrainedLevel:
        point = _drawn(search, drawn)
        network, groups = search.network(), _groups(search, pruning)
        kept = kept_channels(groups.scores(point.model), pruning.density)
        mask = groups.mask(kept)
        _check_whole(search, groups, kept, pruning.density)
        small = slim(network, mask, some_inputs(search.setup.splits))
        whole = _masked(search.state() if pruning.scratch else point.model, mask)
        ends = point.step >= search.setup.total_steps
        start = None if pruning.scratch or ends else small_snapshot(point, network, small)
        trial = train_trial(
            search.setup,
            small.load(whole),
            seed=search.seed,
            label=f"level 1  {int(kept.sum())} channels",
            mask=small.mask,
            hooks=() if pruning.scratch else (ScalePressure(pruning.pressure),),
            start=start,
            stage=stage,
        )
        origin = search.origin
        if not pruning.scratch:
            origin = Origin.stored(point.model, network=origin.network, init=origin.init)
        begun = start if isinstance(start, int) else start.step if start else 0
        final = scatter(trial.trained.state, whole, small.kept)
        return TrainedLevel(
            trial,
            ticket_of(search, 1, mask, final, origin=origin, rewound_steps=begun),
            channels=ChannelCount(kept=int(kept.sum()), total=groups.count, drawn=point.step),
        )

    return run_level(search, 1, train)


def _drawn(search: Search, level: Level) -> Snapshot:
    stage = search.stage("level-00")
    if stage is not None:
        return load_snapshot(stage.directory / REWIND)
    assert level.rewind is not None
    return level.rewind


def _masked(state: State, mask: Mask) -> State:
    """A copy with the pruned weights at 0."""
    return {name: value * mask[name] if name in mask else value.clone() for name, value in state.items()}


def _check_whole(search: Search, groups: ChannelGroups, kept: Tensor, density: float) -> None:
    """TombolaError, with the layer's name, if no path leads from the input to the output."""
    x = some_inputs(search.setup.splits)
    if not is_cut(search.network(), groups.mask(kept), x):
        return
    lost = groups.lost(kept)
    cutting = [name for name in lost if is_cut(search.network(), groups.mask(_without(groups, name)), x)]
    raise TombolaError(
        f"at density {density:g} of the channels, none of {(cutting or lost)[0]} stays, so that no path leads from "
        "input to output; ask for a higher density, or less pressure"
    )


def _without(groups: ChannelGroups, layer: str) -> Tensor:
    """All units but those of one layer's outputs."""
    kept = torch.ones(groups.count, dtype=torch.bool, device="cpu")
    units = groups.outputs[layer]
    kept[units[units >= 0]] = False
    return kept


# ---- before anything is trained -----------------------------------------------------------------------------


def dry_run(search: Search, pruning: ChannelPruning) -> None:
    """A step of both trainings and both tickets on copies, with a mask drawn at random.

    Raises:
        TombolaError: what cannot work; among it a density that cannot leave a channel in every layer that needs one.
    """
    groups, network, x = _groups(search, pruning), search.network(), some_inputs(search.setup.splits)
    _check_enough(search, groups, (pruning.density, *pruning.watch), x)
    hooks = (ScalePressure(pruning.pressure), *_watches(groups, pruning))
    state = try_training(_search_setup(search, pruning), network, seed=search.seed, hooks=hooks)
    draw = torch.rand(groups.count, generator=generator(search.seed, "channels"), device="cpu", dtype=torch.float64)
    mask = groups.mask(kept_channels(draw, pruning.density))
    small = slim(search.network(), mask, x)
    whole = _masked(state, mask)
    module = small.load(whole)
    with nullcontext() if small.mask is None else hold(module, small.mask):
        trained = try_training(search.setup, module, seed=search.seed)
    final = scatter(trained, whole, small.kept)
    network.load_state_dict(final)
    check_ticket(search, ticket_of(search, 1, mask, final), network)


def _check_enough(search: Search, groups: ChannelGroups, densities: Sequence[float], x: Tensor) -> None:
    fewest = min(round(density * groups.count) for density in densities)
    layers = {name: units for name, units in groups.outputs.items() if bool((units >= 0).all())}
    taken: set[int] = set()
    needed: list[str] = []
    if fewest < len(layers):
        for name, units in layers.items():
            own = set(units.tolist())
            if not own & taken and is_cut(search.network(), groups.mask(_without(groups, name)), x):
                needed.append(name)
                taken |= own
    if fewest < max(1, len(needed)):
        wanted = f"{len(needed)} layers need one each ({needed[0]}, ...)" if needed else "one must stay"
        raise TombolaError(
            f"density {min(densities):g} keeps {fewest} of {groups.count:,} channels, but {wanted}; ask for at least "
            f"{max(1, len(needed)) / groups.count:.2g}"
        )
