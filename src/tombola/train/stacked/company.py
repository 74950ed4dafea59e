"""The trainings that one may be stacked with, as it sees them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tombola.data.feed import Feed
from tombola.runs.progress import Update

if TYPE_CHECKING:
    from tombola.train.stacked.member import Member


@dataclass(frozen=True)
class Stretch:
    """Steps that a training asks for: from where its loop stands up to `until`, with nothing but steps in between.

    `kind`: what trainings must have in common to be stacked, but for the step at which they are. `state`: the form of
    what its optimiser remembers there, which must be alike too.
    """

    member: Member
    until: int
    kind: Hashable
    state: Hashable = None

    @property
    def step(self) -> int:
        """Where it begins."""
        return self.member.loop.step


class Company(Protocol):
    """The others. All but `meet` return at once."""

    def meet(self, stretch: Stretch) -> int | None:
        """Wait for the others. None: steps of the stretch have been carried out; else up to where to go alone.

        Raises:
            BaseException: what a hook of this training has raised, or that all are to end.
        """

    def alone(self, why: str) -> None:
        """This training goes on by itself, for that reason."""

    def shared(self, feed: Feed) -> Feed:
        """A feed that gives the same as this one, from memory that all share."""

    def interruptible(self, update: Update) -> Update:
        """The same, which also raises where all are to end."""
