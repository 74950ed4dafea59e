"""The signs and the mask of a ticket on the weights of another initialisation: one level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from tombola.hold import hold
from tombola.levels.actions import with_signs
from tombola.levels.search import Level, Search
from tombola.levels.stage import TrainedLevel, check_connected, final_state, run_level, ticket_of
from tombola.levels.validate import check_ticket
from tombola.nn.init import NORMS
from tombola.parameters import parameters_by_name
from tombola.runs.stage import Stage
from tombola.ticket.begin import Beginning, beginning_of
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import State
from tombola.train.dry_run import try_training
from tombola.train.trial import train_trial


def _origin_state(search: Search, ticket: Ticket) -> State:
    return dict(ticket.build("origin", model=search.architecture, trusted=search.trusted).state_dict())


def _own_state(search: Search, ticket: Ticket) -> State:
    return search.state()


SIGNS: Mapping[str, Callable[[Search, Ticket], State]] = MappingProxyType(
    {"trained": final_state, "origin": _origin_state, "own": _own_state}
)
"""Name -> the state whose signs are taken."""


def train_transferred(search: Search, signs: str) -> Level:
    """Level 1: the search's origin with the signs of its ticket, trained under the ticket's mask.

    Raises:
        TombolaError: the mask leaves no path from the input to the output.
    """

    def train(stage: Stage | None) -> TrainedLevel:
        begun = _begun(search, signs)
        mask = begun.ticket.mask
        label = f"signs  {mask.density:6.1%}"
        trial = train_trial(search.setup, begun.model, seed=search.seed, label=label, mask=mask, stage=stage)
        return TrainedLevel(trial, _ticket(search, begun, trial.trained.state))

    return run_level(search, 1, train)


def dry_run(search: Search, signs: str) -> None:
    """One step and one ticket, on copies: what cannot work says so before anything is trained."""
    begun = _begun(search, signs)
    with hold(begun.model, begun.ticket.mask):
        state = try_training(search.setup, begun.model, seed=search.seed)
        check_ticket(search, _ticket(search, begun, state), begun.model)


class _Begun(NamedTuple):
    """The network that training begins with, the ticket whose signs it has, and what its own will store of it."""

    model: nn.Module
    ticket: Ticket
    origin: Origin
    beginning: Beginning


def _begun(search: Search, signs: str) -> _Begun:
    """Masked weights go into the ticket's first values; what has other signs outside of the mask, into its origin."""
    ticket = search.start
    assert ticket is not None
    check_connected(search, ticket.mask, "under the ticket's mask", "a ticket that keeps more")
    given, model, origin = SIGNS[signs](search, ticket), search.network(), search.origin
    parameters = parameters_by_name(model)
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    signed = {
        name: with_signs(parameter.detach(), given[name])
        for name, parameter in parameters.items()
        if id(parameter) not in norms and parameter.is_floating_point()
    }
    rest = {
        name: value for name, value in signed.items() if name not in ticket.mask and not value.equal(parameters[name])
    }
    with torch.no_grad():
        for name, value in rest.items():
            parameters[name].copy_(value)
        if rest:
            origin = Origin.stored(model, network=origin.network, init=origin.init)
        values = {
            name: torch.where(keep, signed[name], torch.zeros_like(signed[name])) for name, keep in ticket.mask.items()
        }
        beginning = beginning_of({name: parameters[name] for name in ticket.mask}, ticket.mask, values)
        for name, value in values.items():
            parameters[name].copy_(value)
    return _Begun(model, ticket, origin, beginning)


def _ticket(search: Search, begun: _Begun, state: State) -> Ticket:
    return ticket_of(search, 1, begun.ticket.mask, state, origin=begun.origin, beginning=begun.beginning)
