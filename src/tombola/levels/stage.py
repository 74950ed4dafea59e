"""One level of a search: found finished in its stage, or trained; then its ticket and its record are written there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tombola.data.probe import some_inputs
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.hold import hold
from tombola.levels.search import Level, Search, level_result
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.results.codec import recovered
from tombola.results.trial import ChannelCount, LevelResult, MaskHistory, Utilisation
from tombola.runs.stage import REWIND, TICKET, Stage
from tombola.select.select import Selection, warn_of_empty
from tombola.ticket.begin import Beginning
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.storage import bits_per_weight
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.checkpoint import State, save_snapshot
from tombola.train.connectivity import is_cut
from tombola.train.hooks import Hook
from tombola.train.trial import TrainedTrial, evaluate_trial, train_trial


@dataclass(frozen=True)
class TrainedLevel:
    """A level as it was trained, before it is written: its ticket, and what its record holds besides the trial's.

    `barred`: layer -> kept weights that the criterion bars. `tied_kept`: kept weights drawn among equal scores.
    `mask_histories`: of the masks read during the training. `channels`: where channels are pruned by their norms.
    """

    trial: TrainedTrial
    ticket: Ticket
    barred: Mapping[str, int] = field(default_factory=dict)
    tied_kept: int | None = None
    utilisation: tuple[Utilisation, ...] | None = None
    mask_histories: tuple[MaskHistory, ...] | None = None
    channels: ChannelCount | None = None


def run_level(search: Search, number: int, train: Callable[[Stage | None], TrainedLevel]) -> Level:
    """The level of that number. `train` is called where its stage is not finished, with the stage to checkpoint in."""
    name = f"level-{number:02d}"
    stage = search.stage(name)
    record = recovered(LevelResult, stage)
    if stage is not None and record is not None:
        return Level(number, Ticket.load(stage.directory / TICKET, max_weights=UNLIMITED), record)
    trained = train(stage)
    trial, ticket = trained.trial, trained.ticket
    result = level_result(number, ticket.mask, trial, search.path(name), trained.barred).replace(
        tied_kept=trained.tied_kept,
        bits_per_weight=bits_per_weight(ticket),
        utilisation=trained.utilisation,
        mask_histories=trained.mask_histories,
        channels=trained.channels,
    )
    captured = trial.trained.captured
    if stage is not None:
        if captured is not None:
            stage.write(lambda folder: save_snapshot(folder / REWIND, captured))
        stage.write(lambda folder: ticket.save(folder / TICKET))
        stage.finish(result.as_dict())
    return Level(number, ticket, result, captured if stage is None else None)


def train_dense(
    search: Search,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hooks: Sequence[Hook] = (),
    capture: int | None = None,
) -> Level:
    """Level 0: all prunable weights trained from the search's origin, under the mask of a ticket to go on from.

    Args:
        include: name patterns of the weights that are prunable, as in `prunable`.
        exclude: patterns of what is left out.
        hooks: run within the training.
        capture: the step whose snapshot the level keeps, for others to rewind to.
    """

    def train(stage: Stage | None) -> TrainedLevel:
        model = search.network()
        mask = search.mask or Mask.full(prunable(model, include, exclude))
        trial = train_trial(
            search.setup,
            model,
            seed=search.seed,
            label=f"level 0  {mask.density:6.1%}",
            mask=search.mask,
            hooks=hooks,
            capture=capture,
            stage=stage,
        )
        return TrainedLevel(trial, ticket_of(search, 0, mask, trial.trained.state))

    return run_level(search, 0, train)


def evaluated_level(search: Search, mask: Mask, stage: Stage | None) -> TrainedLevel:
    """Level 0 of a network that comes trained: evaluated as it is, under the mask of a ticket to go on from."""
    model = search.network()
    with hold(model, mask) if search.mask is not None else nullcontext():
        trial = evaluate_trial(search.setup, model, stage=stage)
    return TrainedLevel(trial, ticket_of(search, 0, mask, trial.trained.state))


def train_under(
    search: Search, mask: Mask | Callable[[], Mask | Selection], after: Level | None = None, *, weights: str = "origin"
) -> Level:
    """The next level: the network trained under one mask, its pruned weights held at 0.

    Args:
        mask: which weights are kept, or a function that says so: it is called only where the level is not finished.
            A Selection is recorded with what it keeps of barred weights, and of equal scores.
        after: the level before, such as `train_dense` gives; the number of this one follows. None: this is level 1.
        weights: "origin" trains from the search's origin; "trained" goes on from the weights of `after`.

    Raises:
        TombolaError: the mask does not fit the network or a ticket to go on from, or leaves no path from the input to
            the output.
    """
    number = 1 if after is None else after.level + 1
    if weights not in ("origin", "trained") or (weights == "trained" and after is None):
        raise TombolaError(f'weights is {weights!r}; give "origin", or "trained" with the level to go on from (after)')

    def train(stage: Stage | None) -> TrainedLevel:
        given = mask() if callable(mask) else mask
        chosen = given if isinstance(given, Selection) else None
        kept = given.mask if isinstance(given, Selection) else given
        if not isinstance(kept, Mask):
            raise TombolaError(f"the mask is {described(kept)}, but it must be a Mask, such as tombola.select gives")
        origin = search.origin
        if weights == "trained" and after is not None:
            state = final_state(search, after.ticket)
            origin = Origin.stored(state, network=origin.network, init=origin.init)
        if search.mask is not None and not kept.nested_in(search.mask):
            raise TombolaError("the mask keeps weights that the ticket to start from prunes; give one within its mask")
        if empty := kept.empty_layers():
            warn_of_empty(empty)
        check_connected(search, kept, "under the mask", "a higher density, or a layerwise scope")
        trial = train_trial(
            search.setup,
            search.network(origin),
            seed=search.seed,
            label=f"level {number}  {kept.density:6.1%}",
            mask=kept,
            stage=stage,
        )
        barred = chosen.barred if chosen else {}
        ticket = ticket_of(search, number, kept, trial.trained.state, origin=origin, barred=barred)
        return TrainedLevel(trial, ticket, barred, tied_kept=sum(chosen.tied.values()) if chosen else None)

    return run_level(search, number, train)


def final_state(search: Search, ticket: Ticket) -> State:
    """The full state of a ticket's trained network, on the CPU."""
    return dict(ticket.build("final", model=search.architecture, trusted=search.trusted).state_dict())


def check_connected(search: Search, mask: Mask, where: str, instead: str) -> None:
    """TombolaError if no path leads from the input to the output; `where` and `instead` begin and end its message."""
    if is_cut(search.network(), mask, some_inputs(search.setup.splits)):
        empty = mask.empty_layers()
        raise TombolaError(
            f"{where} (density {mask.density:.4g}) no path leads from input to output"
            + (f", {', '.join(empty)} being empty" if empty else "")
            + f"; ask for {instead}"
        )


def ticket_of(
    search: Search,
    number: int,
    mask: Mask,
    final_state: State,
    *,
    origin: Origin | None = None,
    rewound_steps: int = 0,
    barred: Mapping[str, int] | None = None,
    representation: Representation | None = None,
    multiplier: Mapping[str, Tensor] | None = None,
    rewrites: Sequence[Mapping[str, Any]] = (),
    beginning: Beginning | None = None,
    frozen: Mapping[str, FrozenPart] | None = None,
) -> Ticket:
    """The ticket of a level of this search; `origin` where training did not start at the search's.

    `beginning`: what actions made of its weights before training. `frozen`: parts of its mask that a key gives.
    """
    begun = beginning or Beginning()
    return Ticket.from_models(
        origin=origin or search.origin,
        mask=mask,
        final_state=final_state,
        provenance={
            **search.provenance,
            "level": number,
            "rewound_steps": rewound_steps,
            **({"barred_kept": barred} if barred else {}),
        },
        representation=representation or begun.representation,
        multiplier=multiplier,
        pruned_rule=begun.pruned_rule,
        pruned_values=begun.pruned_values,
        begin=begun.begin,
        rewrites=rewrites,
        frozen=frozen,
        model=search.architecture,
        trusted=search.trusted,
    )
