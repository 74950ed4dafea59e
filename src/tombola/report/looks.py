"""How arms look: one colour and marker each throughout a page, distinguishable also with colour vision deficiency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tombola.report.colours import DARKEST, LIGHTEST, css_name, luminance, toward
from tombola.report.read import Run
from tombola.results.comparison import ComparisonResult
from tombola.results.overlap import OverlapResult


@dataclass(frozen=True)
class Look:
    """Colour on white (#rrggbb), line style and marker of matplotlib."""

    colour: str
    dash: Any = "-"
    marker: str = "o"


# Okabe & Ito's blue, vermilion and green; the others were chosen far from these, also under protanopia and
# deuteranopia (Machado et al. 2009): no two of the nine are nearer than 8 in OKLab (black to white: 100).
CONTROLS: Mapping[str, Look] = {
    "random": Look("#d55e00", (0, (4, 1.6)), "s"),
    "reinit": Look("#009e73", (0, (5, 1.4, 1, 1.4)), "^"),
    "dense": Look("#4b5158", (0, (1, 1.3)), "D"),
}
HUES = ("#0072b2", "#c79a2b", "#560a58", "#9a2c11", "#4a22bd", "#5fa4e6")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.6)),
    (0, (5, 1.4, 1, 1.4)),
    (0, (1, 1.3)),
    (0, (7, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
MARKERS: Mapping[str, str] = {
    "o": "",
    "v": "1.6,3 10.4,3 6,9.9",
    "P": "4.6,2.2 7.4,2.2 7.4,4.6 9.8,4.6 9.8,7.4 7.4,7.4 7.4,9.8 4.6,9.8 4.6,7.4 2.2,7.4 2.2,4.6 4.6,4.6",
    "X": "2,4 4,2 6,4 8,2 10,4 8,6 10,8 8,10 6,8 4,10 2,8 4,6",
    "<": "2.1,6 9,1.6 9,10.4",
    ">": "9.9,6 3,1.6 3,10.4",
    "p": "6,1.8 10.1,4.8 8.5,9.6 3.5,9.6 1.9,4.8",
    "*": "6,1 7.3,4.4 11,4.5 8.1,6.8 9.1,10.4 6,8.3 2.9,10.4 3.9,6.8 1,4.5 4.7,4.4",
    "d": "6,1.2 9,6 6,10.8 3,6",
    "s": "2.6,2.6 9.4,2.6 9.4,9.4 2.6,9.4",
    "^": "1.6,9 10.4,9 6,2.1",
    "D": "6,1.4 10.6,6 6,10.6 1.4,6",
}
"""Markers, and the corners that draw them in a box of 12 x 12 (the circle has none). The last three are controls'."""
_SERIES_MARKERS = tuple(MARKERS)[:9]


def series_look(index: int) -> Look:
    """The look of the ``index``-th arm that is no control: no two of the first 54 have one colour and marker."""
    cycle, hue = divmod(index, len(HUES))
    form = index + cycle
    steps = (0.1, 0.05) if luminance(HUES[hue]) > 0.2 else (0.3, 0.42)
    colour = HUES[hue] if cycle == 0 else toward(HUES[hue], steps[(cycle - 1) % 2])
    return Look(colour, _DASHES[form % len(_DASHES)], _SERIES_MARKERS[form % len(_SERIES_MARKERS)])


def shades(look: Look, count: int) -> tuple[Look, ...]:
    """``count`` looks of one hue and marker, from dark to light, each with its own dash; one alone is the look."""
    if count < 2:
        return (look,) * count
    steps = (DARKEST * (LIGHTEST / DARKEST) ** (index / (count - 1)) for index in range(count))
    return tuple(
        replace(look, colour=toward(look.colour, step), dash=_DASHES[index % len(_DASHES)])
        for index, step in enumerate(steps)
    )


@dataclass(frozen=True)
class Looks:
    """The looks of one run's arms, and of the series that its arms belong to (a study's families)."""

    arms: Mapping[str, Look]
    families: Mapping[str, Look] = field(default_factory=dict)

    def arm(self, name: str) -> Look:
        """The look of an arm; gray if it has none."""
        return self.arms.get(name, CONTROLS["dense"])


def page_looks(runs: Sequence[Run]) -> tuple[Looks, ...]:
    """The looks of every run of a page: controls look the same in all, every other arm is distinct.

    Tickets come first, so that those that share a figure are the easiest to distinguish.
    """
    tickets = {run.path: number for number, run in enumerate(run for run in runs if not _compares(run))}
    taken = len(tickets)
    looks: list[Looks] = []
    for run in runs:
        own, used = _run_looks(run, tickets.get(run.path, 0), taken)
        looks.append(own)
        taken += used
    return tuple(looks)


def _compares(run: Run) -> bool:
    """Whether the run compares arms of its own, and has no single ticket."""
    return any(result is not None for result in (run.study, run.overlap, run.measured))


def _run_looks(run: Run, ticket: int, taken: int) -> tuple[Looks, int]:
    """A run's looks, where its ticket has its number and ``taken`` are in use; and how many more it takes."""
    if run.study is not None:
        return _study_looks(run.study, taken)
    if run.overlap is not None:
        return _overlap_looks(run.overlap, taken)
    arms = dict.fromkeys((*(run.find.arms if run.find else ()), *(run.verify.arms if run.verify else ())))
    own = [name for name in arms if name not in ("ticket", *CONTROLS)]
    others = {name: series_look(taken + at) for at, name in enumerate(own)}
    return Looks({**CONTROLS, **others, "ticket": series_look(ticket)}), len(own)


def _study_looks(study: ComparisonResult, taken: int) -> tuple[Looks, int]:
    """A hue and marker for every family, a shade of it for every arm of one; the dense network is gray."""
    families: dict[str, Look] = {}
    arms: dict[str, Look] = {}
    count = 0
    gray = False
    for family, members in study.families.items():
        if len(members) == 1 and members[0].dense and not gray:
            families[family], gray = CONTROLS["dense"], True
        else:
            families[family] = series_look(taken + count)
            count += 1
        arms |= {arm.name: look for arm, look in zip(members, shades(families[family], len(members)), strict=True)}
    return Looks(arms, families), count


def _overlap_looks(study: OverlapResult, taken: int) -> tuple[Looks, int]:
    """Both masks, the random masks of their densities (shades of the control's hue), and the dense network."""
    names = [name for name in dict.fromkeys((*study.names, *(mask_result.mask for mask_result in study.accuracy)))]
    random = [name for name in names if name.startswith("random") and name not in study.names]
    own = [name for name in names if name not in (*random, "dense")]
    looks = {name: series_look(taken + at) for at, name in enumerate(own)}
    looks |= dict(zip(random, shades(CONTROLS["random"], len(random)), strict=True))
    return Looks({**looks, "dense": CONTROLS["dense"]}), len(own)


def swatch(look: Look) -> str:
    """The look as a small inline SVG: what stands beside an arm's name in tables."""
    colour = f"var({css_name(look.colour)})"
    corners = MARKERS[look.marker]
    shape = f'<polygon points="{corners}"/>' if corners else '<circle cx="6" cy="6" r="4.2"/>'
    return f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true" style="fill: {colour}">{shape}</svg>'
