"""A training as part of a company: it asks for its steps, stretch by stretch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tombola.train.hooks import Hook
from tombola.train.recorder import Recorder
from tombola.train.stacked.company import Company, Stretch
from tombola.train.stacked.eligible import kind_of, state_of, why_alone, works_at_steps
from tombola.train.state import Loop

if TYPE_CHECKING:
    from tombola.train.stacked.stack import Stack


@dataclass(eq=False)
class Member:
    """A training that can be stacked. `at_steps`: its hooks that do something at every step, in their order.

    `stack`: what its tensors are parts of at present. `refused`: why its network could not be stacked after all; it
    goes on alone then. `failed`: what one of its hooks, or its stack, has raised.
    """

    loop: Loop
    hooks: Sequence[Hook]
    recorder: Recorder
    company: Company
    at_steps: Sequence[Hook]
    deterministic: bool = False
    stack: Stack | None = None
    refused: str | None = None
    failed: BaseException | None = None

    def advance(self, capture: int | None) -> int | None:
        """Meet the others. None: steps have been carried out in a stack; else up to where to go alone.

        Args:
            capture: the step at which the training is to be copied, where it stops as well.
        """
        loop, until = self.loop, reach(self.loop, capture)
        if self.refused is not None:
            return until
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        stretch = Stretch(self, until, kind_of(loop, self.hooks), state_of(loop))
        alone_until = self.company.meet(stretch)
        if self.failed is not None:
            raise self.failed
        if self.refused is not None:
            self.company.alone(self.refused)
        return alone_until

    def leave(self) -> None:
        """Give the network and its optimiser tensors of their own again."""
        if self.stack is not None:
            self.stack.give_back(self)
            self.stack = None


def joined(company: Company | None, loop: Loop, hooks: Sequence[Hook], recorder: Recorder) -> Member | None:
    """The training as a member of the company; None where it is in none, or cannot be stacked, which it is told."""
    if company is None or loop.step >= loop.total or loop.stopped:
        return None
    loop.train_feed, loop.val_feed = company.shared(loop.train_feed), company.shared(loop.val_feed)
    if (why := why_alone(loop, hooks)) is not None:
        company.alone(why)
        return None
    return Member(loop, hooks, recorder, company, [hook for hook in hooks if works_at_steps(hook)])


def reach(loop: Loop, capture: int | None) -> int:
    """The first step at which more is to be done than to go on: an evaluation, a new epoch, a copy, the end."""
    step = loop.step
    stops = [loop.total, *((step // every + 1) * every for every in (loop.eval_every, loop.steps_per_epoch))]
    return min(stops if capture is None or capture <= step else [*stops, capture])
