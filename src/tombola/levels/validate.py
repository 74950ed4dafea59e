"""A search's ticket, tried before anything is trained: written, read back, built, compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tombola.data.probe import first_of
from tombola.errors import TombolaError
from tombola.levels.search import Search
from tombola.nn.forward import leaves
from tombola.ticket.ticket import Ticket
from tombola.train.dry_run import ROWS, close, forward, in_words, undisturbed
from tombola.train.length import steps
from tombola.train.trial import TrainingSetup


def check_evaluations(setup: TrainingSetup) -> None:
    """TombolaError if the best of the evaluations is asked for, and only the end of the training is evaluated."""
    every = steps(setup.recipe.eval_every, setup.steps_per_epoch)
    if every >= setup.total_steps:
        raise TombolaError(
            f"hand_on is best, but with eval_every {setup.recipe.eval_every} a training of {setup.recipe.length} is "
            f"evaluated at its end alone; give an eval_every below {setup.total_steps}it, or hand on the last"
        )


def check_ticket(search: Search, ticket: Ticket, model: nn.Module) -> nn.Module:
    """Write a ticket, read it back and build it; gives the network, on the CPU.

    Raises:
        TombolaError: it cannot be done, or gives another network than `model`, which the ticket was made of.
    """
    with in_words("no ticket can be made of the network"):
        read = Ticket.from_bytes(ticket.to_bytes())
        built = read.build("final", model=search.architecture, trusted=search.trusted)
        known = replace(read, origin=ticket.origin)  # whose weights need not be drawn a second time
        known.build("origin", model=search.architecture, trusted=search.trusted)
    sample = first_of(search.setup.splits.val, ROWS)
    outputs = []
    with undisturbed(search.setup):
        for network in (model, model, built.to(search.setup.fabric.device)):
            torch.manual_seed(0)  # of networks that draw in evaluation mode
            outputs.append(leaves(forward(search.setup, network, sample)[0]))
    first, again, rebuilt = outputs
    if close(first, again) and not close(first, rebuilt):
        raise TombolaError(
            "the network that is built from its ticket gives other outputs than the trained one: its forward pass uses "
            "something that changes and is not in its state_dict; make that a persistent buffer"
        )
    return built.to("cpu")
