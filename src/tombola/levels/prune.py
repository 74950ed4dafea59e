"""The pruning loop: train, score, select, rewind, and again; every method that prunes is a setting of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola.coverage import coverage
from tombola.data.probe import some_inputs
from tombola.errors import TombolaError, in_short
from tombola.hold import hold
from tombola.levels.actions import PRUNED_ACTIONS, KeptAction, PrunedAction
from tombola.levels.actions import rewind as rewind_kept
from tombola.levels.begin import (
    Values,
    are_plain,
    begun_at,
    check_retraining,
    first_values,
    retraining,
    with_hyperparameters,
)
from tombola.levels.context import context_after, contexts_during
from tombola.levels.detector import WATCHED, Watching
from tombola.levels.rewind import Rewind
from tombola.levels.rewind_point import kept_snapshot, origin_at
from tombola.levels.search import Level, Search
from tombola.levels.stability import WatchMasks
from tombola.levels.stage import (
    TrainedLevel,
    check_connected,
    evaluated_level,
    final_state,
    run_level,
    ticket_of,
)
from tombola.levels.validate import check_ticket
from tombola.levels.watch import histories, watch_next_mask
from tombola.mask import Mask
from tombola.nn.outputs import output_weights, say_kept
from tombola.parameters import prunable, unwrap
from tombola.runs.stage import Stage
from tombola.select.barred import warn_of_barred, warn_of_ties
from tombola.select.checks import check_upright
from tombola.select.criteria import Context, Criterion
from tombola.select.patterns import NM, Pattern
from tombola.select.select import Selection, selection, warn_of_empty
from tombola.ticket.begin import Beginning, beginning_of
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import Snapshot, State
from tombola.train.connectivity import is_cut
from tombola.train.dry_run import in_words, try_training
from tombola.train.hooks import Hook
from tombola.train.trial import train_trial

Counts = Mapping[str, int] | int | None
"""Units to keep: per layer, or over all layers; None where the pattern (N:M) fixes them."""


def no_hooks(search: Search, level: int) -> Sequence[Hook]:
    """Nothing runs within the training of a level."""
    return ()


@dataclass(frozen=True)
class Pruning:
    """The axes of the loop.

    `plan` gives the units kept at each level from the mask to begin with, the name of the output layer's weight, and
    those of the weights that stay whole: with `spare_outputs`, all whose rows are the network's outputs.
    `kept_action`, `pruned_action`: see `actions`. `one_shot`: every level prunes the dense network anew. `retrain`:
    fields of the recipe that change after the dense level. `watching`: how the masks are watched that a level would
    give the next one, and whether it ends once they are stable. `criterion_batches`: over how many batches of the
    training a criterion takes gradients, losses and norms. `hooks`: gives what runs within a level's training.
    `best`: levels hand on the network of their lowest validation loss, and not that of the end. `trained`: the network
    comes trained, so that level 0 evaluates it and trains nothing.
    """

    plan: Callable[[Mask, str, Collection[str]], Sequence[Counts]]
    criterion: Criterion
    scope: str
    pattern: Pattern
    rewind: Rewind
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    spare_outputs: bool = False
    kept_action: KeptAction = rewind_kept
    pruned_action: PrunedAction = PRUNED_ACTIONS["zero"]
    one_shot: bool = False
    retrain: Mapping[str, Any] = field(default_factory=dict)
    watching: Watching | None = WATCHED
    criterion_batches: int = 1
    hooks: Callable[[Search, int], Sequence[Hook]] = no_hooks
    best: bool = False
    trained: bool = False

    def drawn_from(self, before: Sequence[Level]) -> Level:
        """The level whose weights the next mask is drawn from."""
        return before[0 if self.one_shot else -1]

    def drawn_at(self, level: int, plan: Sequence[Counts]) -> Sequence[Counts]:
        """What the mask keeps that is drawn from a level's weights: of several, the last; none of the last level."""
        if self.one_shot:
            return plan[-1:] if level == 0 and len(plan) > 1 else ()
        return plan[level + 1 : level + 2]


def prune_levels(search: Search, pruning: Pruning) -> list[Level]:
    """Level 0 trains the dense network; each later level prunes what the last one trained, rewinds, and trains.

    Where the criterion leaves too few weights, the rest are drawn at random from those that it bars: a warning says how
    many, and so does the level's result (`barred_kept`, in all and by layer).

    Raises:
        TombolaError: a level's mask leaves no path from the input to the output.
    """
    mask, plan = plan_levels(search.network(), pruning, search.mask, some_inputs(search.setup.splits))
    say_kept(_spared(search, pruning, mask), "prune_outputs")
    whole = Selection(mask, {}, {}, {})
    levels = [run_level(search, 0, partial(_train_level, search, pruning, plan, whole, ()))]
    for number, counts in enumerate(plan[1:], 1):
        before = tuple(levels)

        def train(stage: Stage | None, counts: Counts = counts, before: Sequence[Level] = before) -> TrainedLevel:
            return _train_level(search, pruning, plan, _next_mask(search, pruning, before, counts), before, stage)

        levels.append(run_level(search, number, train))
    return levels


def one_shot_masks(search: Search, pruning: Pruning, dense: Level) -> Iterator[tuple[int, Callable[[], Selection]]]:
    """For each level after the dense one, its number, and what draws its mask from the dense network's weights."""
    _, plan = plan_levels(search.network(), pruning, search.mask, some_inputs(search.setup.splits))
    for number, counts in enumerate(plan[1:], 1):
        yield number, partial(_next_mask, search, pruning, (dense,), counts)


def plan_levels(
    network: nn.Module, pruning: Pruning, mask: Mask | None = None, x: Tensor | None = None
) -> tuple[Mask, Sequence[Counts]]:
    """The mask to begin with (`mask`, or everything), and the units that each level keeps of it.

    `x`: a batch of inputs, by which the output layers are found; without it the last prunable weight counts as theirs.
    """
    weights = prunable(network, include=pruning.include, exclude=pruning.exclude)
    if not weights:
        raise TombolaError(f"the network has no prunable weight: {coverage(network, pruning.include, pruning.exclude)}")
    if mask is not None and mask.keys() != weights.keys():
        odd = sorted(mask.keys() ^ weights.keys())
        raise TombolaError(
            f"the ticket to start from and the search differ in {odd[0]!r}; set include and exclude alike"
        )
    if empty := [name for name, weight in weights.items() if weight.numel() == 0]:
        raise TombolaError(f"{empty[0]!r} has no elements; leave it out with exclude")
    _check_plain(network, weights)
    check_upright(network, weights, pruning.pattern)
    mask = mask or Mask.full(weights)
    last = next(reversed(prunable(network)), "")
    return mask, pruning.plan(mask, last, _outputs(network, pruning, mask, x))


def _outputs(network: nn.Module, pruning: Pruning, mask: Mask, x: Tensor | None) -> list[str]:
    """The weights that stay whole."""
    if not pruning.spare_outputs:
        return []
    return (
        [name for name in list(prunable(network))[-1:] if name in mask]
        if x is None
        else output_weights(network, x, mask)
    )


def _spared(search: Search, pruning: Pruning, mask: Mask) -> list[str]:
    if not pruning.spare_outputs:
        return []
    return _outputs(search.network(), pruning, mask, some_inputs(search.setup.splits))


def _check_plain(network: nn.Module, names: Iterable[str]) -> None:
    """TombolaError for weights that are worked out from others: a ticket holds values, not how they are made."""
    there = unwrap(network).state_dict()
    made = [name for name in names if name not in there]
    if made:
        raise TombolaError(
            f"{made[0]!r} is parametrised (spectral norm, orthogonal, ...), so that no mask on it can be kept; make it "
            "plain with torch.nn.utils.parametrize.remove_parametrizations, or leave it out with exclude"
        )


def dry_run(search: Search, pruning: Pruning) -> None:
    """One step, one ticket and one selection, on copies: what cannot work says so before anything is trained."""
    rewound = pruning.rewind.step(search.setup.steps_per_epoch, search.setup.total_steps)
    check_retraining(search.setup, pruning.retrain, rewound)
    model = search.network()
    mask, plan = plan_levels(model, pruning, search.mask, some_inputs(search.setup.splits))
    with hold(model, mask):
        state = try_training(search.setup, model, seed=search.seed, hooks=pruning.hooks(search, 0))
    ticket = ticket_of(search, 0, mask, state)
    check_ticket(search, ticket, model)
    if pruning.retrain:
        try_training(retraining(search.setup, pruning.retrain), search.network(), seed=search.seed)
    if len(plan) > 1:
        with warnings.catch_warnings(), in_words("the paths of the pruned network cannot be followed"):
            warnings.simplefilter("ignore")  # of weights that have hardly moved
            chosen = selected(search, pruning, context_after(search, 0, ticket), mask, plan[1])
            is_cut(search.network(), chosen.mask, some_inputs(search.setup.splits))
        _try_actions(search, pruning, chosen.mask, ticket)


def _try_actions(search: Search, pruning: Pruning, mask: Mask, dense: Ticket) -> None:
    """The actions on a first mask, and the ticket that they give."""
    if are_plain(pruning.kept_action, pruning.pruned_action):
        return
    model = search.network()
    values = first_values(
        search,
        pruning.kept_action,
        pruning.pruned_action,
        level=1,
        mask=mask,
        at=dict(model.state_dict()),
        drawn_from=dense,
    )
    begun_at(model, None, values)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    beginning = beginning_of(search.state(), mask, values, state if pruning.pruned_action.trains else None)
    check_ticket(search, ticket_of(search, 1, mask, state, beginning=beginning), model)


def selected(search: Search, pruning: Pruning, context: Context, mask: Mask, counts: Counts) -> Selection:
    """What the criterion and the counts keep of `mask`; of several ranks, the first decides."""
    return search.setup.ranks.first(partial(_selected, search, pruning, context, mask, counts))


def _selected(search: Search, pruning: Pruning, context: Context, mask: Mask, counts: Counts) -> Selection:
    scores = _scores(pruning, context)
    first = {name: torch.full_like(scores[name], torch.inf) for name in _spared(search, pruning, mask)}
    return selection(
        {**scores, **first},
        counts=counts,
        scope=pruning.scope,
        pattern=pruning.pattern,
        candidates=mask,
        signed=True,
        fill=context.generator,
    )


def _scores(pruning: Pruning, context: Context) -> dict[str, Tensor]:
    try:
        scores = pruning.criterion(context.over(pruning.criterion_batches))
    except TombolaError:
        raise
    except Exception as error:  # a user's own function may raise anything
        raise TombolaError(f"{_name(pruning)} failed on its Context: {in_short(error)}") from error
    _check_scores(_name(pruning), scores, context)
    return scores


def _check_scores(whose: str, given: object, context: Context) -> None:
    wanted = "give a mapping: layer name -> scores in the weight's shape"
    if not isinstance(given, Mapping):
        raise TombolaError(f"{whose} gave a {type(given).__name__}; {wanted}")
    for name, weight in context.final.items():
        scores = given.get(name)
        if not isinstance(scores, Tensor) or scores.shape != weight.shape:
            what = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)[:60]
            raise TombolaError(f"{whose} gave {what} for {name!r} of shape {tuple(weight.shape)}; {wanted}")


def _name(pruning: Pruning) -> str:
    return f"criterion {getattr(pruning.criterion, '__qualname__', repr(pruning.criterion))}"


def _next_mask(search: Search, pruning: Pruning, before: Sequence[Level], counts: Counts) -> Selection:
    source, where = pruning.drawn_from(before), f"at level {len(before)}"
    context = context_after(search, source.level, source.ticket)
    chosen = selected(search, pruning, context, source.ticket.mask, counts)
    pruned, what = chosen.mask, f"{_name(pruning)} {where}: "
    warn_of_barred(pruned, chosen.barred, chosen.drawn, what)
    warn_of_ties(pruned, chosen.tied, what)
    if empty := pruned.empty_layers():
        warn_of_empty(empty)
    if pruning.pruned_action == PRUNED_ACTIONS["zero"]:  # else the network has weights where the mask has none
        check_connected(search, pruned, where, "a higher density, fewer levels, or a layerwise scope")
    return chosen


def _train_level(
    search: Search,
    pruning: Pruning,
    plan: Sequence[Counts],
    chosen: Selection,
    before: Sequence[Level],
    stage: Stage | None,
) -> TrainedLevel:
    level, mask = len(before), chosen.mask
    if pruning.trained and not before:
        return evaluated_level(search, mask, stage)
    rewound = pruning.rewind.step(search.setup.steps_per_epoch, search.setup.total_steps)
    snapshot = kept_snapshot(search, before[0]) if before and rewound else None
    model, start = _starting_point(search, pruning, snapshot, before)
    setup, values = search.setup, None
    if before:
        setup = retraining(search.setup, pruning.retrain)
        start = with_hyperparameters(start, setup.recipe, pruning.retrain)
        values = _first_values(search, pruning, mask, before, start.model if start else dict(model.state_dict()))
        start = start if values is None else begun_at(model, start, values)
    free = bool(before) and pruning.pruned_action.trains
    watch = _watch(search, pruning, plan, mask, before, rewound, values)
    trial = train_trial(
        setup,
        model,
        seed=search.seed,
        label=f"level {level}  {mask.density:6.1%}",
        mask=mask if (before or search.mask is not None) and not free else None,
        values=values,
        hooks=[*pruning.hooks(search, level), *([watch] if watch else [])],
        start=start,
        capture=rewound if not before and rewound else None,
        best=pruning.best,
        stage=stage,
    )
    origin = _origin(search, pruning, snapshot, before)
    ticket = ticket_of(
        search,
        level,
        mask,
        trial.trained.state,
        origin=origin,
        beginning=_beginning(search, pruning, origin, mask, values, trial.trained.state),
        rewound_steps=start.step if start else 0,
        barred=chosen.barred,
    )
    return TrainedLevel(
        trial, ticket, chosen.barred, tied_kept=sum(chosen.tied.values()), mask_histories=histories(watch)
    )


def _watch(
    search: Search,
    pruning: Pruning,
    plan: Sequence[Counts],
    mask: Mask,
    before: Sequence[Level],
    rewound: int,
    held: Values | None,
) -> WatchMasks | None:
    """What reads the next level's mask; level 0 does not end before the point to rewind to."""
    counts = pruning.drawn_at(len(before), plan)
    if pruning.watching is None or not counts:
        return None
    return watch_next_mask(
        search,
        replace(pruning.watching, begin=max(rewound, pruning.watching.begin)),
        contexts_during(search, len(before), mask, held),
        mask,
        _fraction(pruning.pattern, mask, counts[0]),
        lambda context: selected(search, pruning, context, mask, counts[0]).mask,
        before[0] if before else None,
    )


def _fraction(pattern: Pattern, mask: Mask, counts: Counts) -> float:
    """Of all units, those that counts keep."""
    if isinstance(pattern, NM) or counts is None:
        assert isinstance(pattern, NM)
        return pattern.n / pattern.m
    kept = counts if isinstance(counts, int) else sum(counts.values())
    return kept / sum(pattern.units(layer.shape) for layer in mask.values())


def _first_values(search: Search, pruning: Pruning, mask: Mask, before: Sequence[Level], at: State) -> Values | None:
    """What the weights begin with by the actions; None where that is the rewind point, and 0."""
    if are_plain(pruning.kept_action, pruning.pruned_action):
        return None
    return first_values(
        search,
        pruning.kept_action,
        pruning.pruned_action,
        level=len(before),
        mask=mask,
        at=at,
        drawn_from=pruning.drawn_from(before).ticket,
    )


def _beginning(
    search: Search, pruning: Pruning, origin: Origin, mask: Mask, values: Values | None, trained: State
) -> Beginning | None:
    """What the ticket says of that; where weights do not rewind, its kept ones begin as they are in its origin."""
    if values is None:
        return None
    base = origin.state_dict(search.architecture, search.trusted)
    if not pruning.rewind.weights:
        values = {name: torch.where(keep.to("cpu"), base[name], values[name]) for name, keep in mask.items()}
    return beginning_of(base, mask, values, trained if pruning.pruned_action.trains else None)


def _starting_point(
    search: Search, pruning: Pruning, snapshot: Snapshot | None, before: Sequence[Level]
) -> tuple[nn.Module, Snapshot | None]:
    """The network to train and the snapshot to begin at: rewound weights, or the last level's under "lr"."""
    model = search.network()
    if not before or pruning.rewind.weights:
        return model, snapshot
    final = final_state(search, before[-1].ticket)
    model.load_state_dict(final)
    return model, replace(snapshot, model=final) if snapshot else None


def _origin(search: Search, pruning: Pruning, snapshot: Snapshot | None, before: Sequence[Level]) -> Origin:
    """What the ticket says it trains from: the rewind point; under "lr", the trained dense network."""
    if before and not pruning.rewind.weights:
        state = final_state(search, before[0].ticket)
        return Origin.stored(state, network=search.origin.network, init=search.origin.init)
    return search.origin if snapshot is None else origin_at(search, snapshot)
