"""Trainings that meet: functions that train, each in a thread of its own, of which one at a time goes on.

A function's thread waits where steps come that may be stacked, until all others wait there too or have ended. So
everything happens in an order that depends on the functions alone, and nothing waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

from tombola.data.feed import Feed, ResidentFeed
from tombola.results.sweep import Stacked
from tombola.runs.progress import Update
from tombola.train.stacked.carry import Stacks, chosen
from tombola.train.stacked.company import Company, Stretch
from tombola.train.stacked.turns import Turn

Result = TypeVar("Result")


def together(
    functions: Sequence[Callable[[Company], Result]],
) -> Generator[tuple[int, Result, Stacked], None, None]:
    """(its number, what it gives, how its trainings were stacked) of every function, as they end.

    Raises:
        BaseException: what a function raises; the others are ended then, as they are where the caller stops early.
    """
    feeds: list[ResidentFeed] = []
    seats = {number: _Seat(function, feeds) for number, function in enumerate(functions)}
    stacks, told = Stacks(), dict[int, int | None](dict.fromkeys(seats))
    try:
        while seats:
            for number, until in told.items():
                seat = seats[number]
                seat.turn.go_on(until)
                if seat.turn.ended:
                    del seats[number]
                    stacks.forget(seat)
                    yield number, seat.turn.outcome, seat.how
            told = _carried(seats, stacks)
    finally:
        for seat in sorted(seats.values(), key=lambda one: not one.turn.under_way):
            seat.turn.interrupt()


class _Seat(Generic[Result]):
    """A function at the table: what its trainings see of the others (`Company`), and how they were stacked."""

    def __init__(self, function: Callable[[Company], Result], feeds: list[ResidentFeed]) -> None:
        self._feeds, self._stacked = feeds, Stacked()
        self.turn: Turn[Stretch, int | None, Result] = Turn(lambda turn: function(self))

    def meet(self, stretch: Stretch) -> int | None:
        """As `Company` says."""
        return self.turn.ask(stretch)

    def alone(self, why: str) -> None:
        """As `Company` says; of several reasons the first is kept."""
        self._stacked = self._stacked.replace(alone=self._stacked.alone or why)

    def shared(self, feed: Feed) -> Feed:
        """As `Company` says."""
        if not isinstance(feed, ResidentFeed):
            return feed
        known = next((one for one in self._feeds if one.cuts_as(feed)), None)
        if known is None:
            self._feeds.append(feed)
        return known or feed

    def interruptible(self, update: Update) -> Update:
        """As `Company` says."""

        def checked(done: int, figures: Callable[[], str] | None = None) -> None:
            self.turn.check()
            update(done, figures)

        return checked

    def moved(self, steps: int, runs: int) -> None:
        """So many steps were carried out in a stack of so many."""
        if steps:
            before = self._stacked
            self._stacked = before.replace(steps=before.steps + steps, runs=max(before.runs, runs))

    @property
    def how(self) -> Stacked:
        """How its trainings were stacked."""
        lonely = not self._stacked.steps and self._stacked.alone is None
        return self._stacked.replace(alone="no other run was at the same steps") if lonely else self._stacked


def _carried(seats: dict[int, _Seat[Result]], stacks: Stacks) -> dict[int, int | None]:
    """Carry out what those who wait ask for and can be stacked; which of them may go on, and what they are told."""
    asked = {number: seat.turn.asked for number, seat in seats.items()}
    numbers = {id(stretch): number for number, stretch in asked.items()}
    told: dict[int, int | None] = {}
    for choice in chosen([stretch for stretch in asked.values() if stretch is not None]):
        single, begun = len(choice.stretches) == 1, choice.stretches[0].step
        step = begun if single else stacks.carry_out(choice)
        for stretch in choice.stretches:
            number = numbers[id(stretch)]
            seats[number].moved(step - begun, len(choice.stretches))
            told[number] = choice.until if single or stretch.member.refused is not None else None
    return dict(sorted(told.items()))
