"""Accuracies of a study of initialisations over replicates: of the searches by scheme, of masks on other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tombola.results.initialisations import Searched, Transfer
from tombola.results.overlap import MaskTrial
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.results.trial import LevelResult

MASKS = ("IMP ticket", "supermask")
"""The two searches, by their numbers."""
DENSE = "dense"

Levels = Mapping[tuple[str, int, int], Sequence[LevelResult]]
"""(scheme, number of the search, replicate) -> its levels."""


@dataclass(frozen=True)
class Trial:
    """The mask of search number `mask` under `found`, or a random one of its densities, on the weights of `on`.

    `ticket`: the file of that search's ticket, relative to the run's directory.
    """

    replicate: int
    mask: int
    found: str
    on: str
    ticket: str
    random: bool = False

    @property
    def kind(self) -> str:
        """Which mask, in words."""
        return f"random as {MASKS[self.mask]}" if self.random else MASKS[self.mask]

    @property
    def name(self) -> str:
        """The folder of its stage, in the run's directory."""
        what = f"{'random-' if self.random else ''}{('imp', 'supermask')[self.mask]}"
        return f"transfer/replicate-{self.replicate}/{what}-{self.found}-on-{self.on}"


def trials(inits: Sequence[str], replicates: int, levels: Levels) -> Iterator[Trial]:
    """Every mask on the weights of every scheme of its seed, and random masks of its densities on its own."""
    for replicate in range(replicates):
        for mask in range(len(MASKS)):
            for on in inits:
                for found, random in (*((one, False) for one in inits), (on, True)):
                    ticket = levels[found, mask, replicate][-1].ticket or ""
                    yield Trial(replicate, mask, found, on, ticket, random)


def searched(inits: Sequence[str], replicates: int, levels: Levels) -> Iterator[Searched]:
    """Dense network, ticket and supermask of every scheme; differences from the first scheme paired by replicate."""
    for number, name in enumerate((DENSE, *MASKS)):
        ends = {init: [_end(levels, init, number, index) for index in range(replicates)] for init in inits}
        for init, made in ends.items():
            yield Searched(
                init=init,
                mask=name,
                density=fmean(level.density for level in made),
                accuracy=figure([level.test_accuracy for level in made]),
                against_first=None if init == inits[0] else _change(_tests(made), _tests(ends[inits[0]])),
                metrics=tuple(level.metrics for level in made),
                tickets=tuple(level.ticket or "" for level in made),
            )


def _end(levels: Levels, init: str, number: int, replicate: int) -> LevelResult:
    """The dense network of imp (0), or the last level of a search (1, 2)."""
    return levels[init, max(number - 1, 0), replicate][0 if number == 0 else -1]


def _tests(made: Sequence[LevelResult]) -> list[float | None]:
    return [level.test_accuracy for level in made]


def _change(first: Sequence[float | None], second: Sequence[float | None]) -> Figure:
    pairs = zip(first, second, strict=True)
    return figure([None if one is None or other is None else one - other for one, other in pairs])


def transfers(tried: Mapping[Trial, MaskTrial]) -> Iterator[Transfer]:
    """The replicates of every trial as one, against the mask of those weights' own search and against a random one."""
    grouped: dict[tuple[int, bool, str, str], list[MaskTrial]] = {}
    named: dict[tuple[int, bool, str, str], Trial] = {}
    for trial, result in tried.items():
        key = trial.mask, trial.random, trial.found, trial.on
        grouped.setdefault(key, []).append(result)
        named[key] = trial
    for (mask, random, found, on), made in grouped.items():
        own = grouped[mask, False, on, on] if found != on else None
        chance = None if random else grouped[mask, True, on, on]
        yield Transfer(
            mask=named[mask, random, found, on].kind,
            found=found,
            on=on,
            density=fmean(one.density for one in made),
            untrained=figure(_untrained(made)),
            trained=figure(_tests(made)),
            against_own_untrained=None if own is None else _change(_untrained(made), _untrained(own)),
            against_own_trained=None if own is None else _change(_tests(made), _tests(own)),
            against_random_untrained=None if chance is None else _change(_untrained(made), _untrained(chance)),
            against_random_trained=None if chance is None else _change(_tests(made), _tests(chance)),
            metrics=tuple(one.metrics for one in made),
            tickets=tuple(one.ticket or "" for one in made),
        )


def _untrained(made: Sequence[MaskTrial]) -> list[float | None]:
    return [one.untrained for one in made]
