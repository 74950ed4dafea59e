"""What a search tells a criterion."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from tombola.levels.search import Level, Search
from tombola.levels.stage import final_state
from tombola.mask import Mask
from tombola.nn.forward import Batch, typed
from tombola.parameters import parameters_by_name, prunable, unwrap
from tombola.rng.seeds import generator
from tombola.select.context import At, Context
from tombola.ticket.redraw import redrawn
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import State
from tombola.train.feeds import training_feed
from tombola.train.gradient import Probe, write_weights
from tombola.train.snapshots import copy_state


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


def contexts_during(
    search: Search, level: int, mask: Mask, held: Mapping[str, Tensor] | None = None
) -> Callable[[nn.Module], Context]:
    """What a criterion may look at while a level trains under `mask`: gives it for the network as it stands.

    Copies are taken, so that it keeps saying what it said. As after the level, but of weights that are still trained.
    `held`: what pruned weights are held at; None: 0.
    """
    initial = search.state()
    pruned = None if held is None else lambda: held
    return lambda model: _at(search, mask, _draws(search, level), initial, copy_state(unwrap(model)), pruned)


def contexts_untrained(search: Search) -> Callable[[Mask, int], Context]:
    """What a criterion may look at before any training: gives it for a mask and the number of a scoring.

    Every number has draws of its own. The network is drawn once, and copied where a criterion asks for it.
    """
    initial, network = search.state(), search.network()
    return lambda mask, number: _at(
        search,
        mask,
        generator(search.seed, "criterion", "untrained", number),
        initial,
        initial,
        None,
        network,
    )


def _context(search: Search, mask: Mask, level: int, ticket: Ticket | None) -> Context:
    initial = search.state()
    if ticket is None:
        return _at(search, mask, _draws(search, level), initial, initial, None)
    held = None if ticket.prunes_to_zero else partial(_begun, search, ticket)
    return _at(search, mask, _draws(search, level), initial, final_state(search, ticket), held)


def _draws(search: Search, level: int) -> torch.Generator:
    return generator(search.seed, "criterion", level)


def _at(
    search: Search,
    mask: Mask,
    draws: torch.Generator,
    initial: State,
    final: State,
    held: Callable[[], Mapping[str, Tensor]] | None,
    network: nn.Module | None = None,
) -> Context:
    """`held`: gives what pruned weights are held at; None: 0. `network`: one at the start, to copy; None: make it."""

    def fresh(at: At) -> nn.Module:
        model = search.network() if network is None else copy.deepcopy(network)
        if at != "initial":
            model.load_state_dict(final)
        if isinstance(at, Mapping):
            write_weights(model, at)
        if held is None:
            mask.apply_(model)
        elif at != "final":
            _write_pruned(model, mask, held())
        return model

    def feed(model: nn.Module) -> Iterator[Batch]:
        batches = training_feed(search.setup.splits, search.setup.recipe, torch.device("cpu"), False)
        return typed(batches.epoch(search.seed, 0), model)

    def redraw(seed: int) -> nn.Module:
        model = redrawn(search.origin, mask, seed, search.architecture, search.trusted)
        if held is None:
            mask.apply_(model)
        else:
            _write_pruned(model, mask, held())
        return model

    probe = Probe(fresh, redraw, tuple(mask), feed, search.setup.splits.task.loss, search.seed, network)
    return Context(  # of copies: a criterion may be anyone's, and write to what it is given
        initial={name: initial[name].clone() for name in mask},
        final={name: final[name].clone() for name in mask},
        gradient=partial(probe.gradient, "initial", 1),
        generator=draws,
        mask=Mask({name: keep.clone() for name, keep in mask.items()}),
        probe=probe,
    )


def _begun(search: Search, ticket: Ticket) -> Mapping[str, Tensor]:
    """What a ticket's network begins with: what it prunes has the values that it is held at."""
    state: State = ticket.build("origin", model=search.architecture, trusted=search.trusted).state_dict()
    return state


def _write_pruned(model: nn.Module, mask: Mask, held: Mapping[str, Tensor]) -> None:
    """Set what a mask prunes to the values that it is held at."""
    weights = parameters_by_name(model)
    with torch.no_grad():
        for name, keep in mask.items():
            weights[name].copy_(torch.where(keep, weights[name], held[name]))
