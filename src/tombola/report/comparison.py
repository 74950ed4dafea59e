"""A study that compares arms, as plain data: an arm is a method with its own recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tombola.report.levels import FEWEST, Folder, Level, read_better, read_interval, read_level, read_shape
from tombola.report.nodes import Node

SEEDS = "training seeds alone"
"""What an interval covers, in runs that do not say so."""
GAP, SHIFT = "gap", "shift"
FIGURES = (
    "test_accuracy",
    "val_accuracy",
    "train_accuracy_eval",
    GAP,
    SHIFT,
    "train_accuracy",
    "test_accuracy_sampled",
    "val_accuracy_sampled",
    "bits_per_weight",
)


@dataclass(frozen=True)
class StudyArm:
    """One arm. ``density`` is what it is plotted under; ``values`` holds each figure's values over replicates."""

    name: str
    family: str
    method: str
    kept: float
    density: float
    values: Mapping[str, tuple[float, ...]]
    replicates: tuple[tuple[Level, ...], ...]

    @property
    def dense(self) -> bool:
        """Whether this is the unpruned network."""
        return self.method == "dense" and self.density == 1

    @property
    def last_levels(self) -> tuple[Level, ...]:
        """The level that judges each replicate."""
        return tuple(levels[-1] for levels in self.replicates if levels)


@dataclass(frozen=True)
class Difference:
    """An arm minus the first arm, in one figure, with its two-sided 95 % interval."""

    difference: float | None
    interval: tuple[float, float] | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self.interval[0] > 0 else -1


@dataclass(frozen=True)
class Contrast:
    """How one arm differs from the first."""

    arm: str
    against: str
    paired: bool
    differences: Mapping[str, Difference]
    covers: str = SEEDS
    """What the interval of the test metric's difference is over; all others are over training seeds alone."""


@dataclass(frozen=True)
class Study:
    """What a comparison of arms found."""

    study: str
    model: str
    data: str
    metric: str
    arms: tuple[StudyArm, ...]
    contrasts: tuple[Contrast, ...]
    note: str
    seeds: tuple[int, ...] = ()
    better: str | None = None
    input_shape: tuple[int, ...] | None = None

    @property
    def replicates(self) -> int:
        """The most replicates that an arm has."""
        return max((len(arm.replicates) for arm in self.arms), default=0)

    @property
    def gaps(self) -> list[str]:
        """What the study lacks, in plain words."""
        untested = [arm.name for arm in self.arms if not arm.values["test_accuracy"]]
        notes = [f"No test {self.metric} of: {', '.join(untested)}."] if untested else []
        if self.replicates < FEWEST:
            notes.append(f"There are no intervals: they need {FEWEST} replicates, and the arms have {self.replicates}.")
        return notes

    @property
    def families(self) -> Mapping[str, tuple[StudyArm, ...]]:
        """Arms by series, in the order of their first arm; from dense to sparse."""
        names = dict.fromkeys(arm.family for arm in self.arms)
        grouped = {name: [arm for arm in self.arms if arm.family == name] for name in names}
        return {name: tuple(sorted(arms, key=lambda arm: -arm.density)) for name, arms in grouped.items()}


def read_study(node: Node, root: Folder) -> Study:
    """The study in a result; the levels of its arms name files under ``root``."""
    metric = node.text("metric", "accuracy")
    top = 1.0 if metric == "accuracy" else float("inf")
    return Study(
        study=node.text("study", "study"),
        model=node.text("model", "?"),
        data=node.text("data", "?"),
        metric=metric,
        arms=tuple(_arm(item, root, top) for item in node.elements("arms")),
        contrasts=tuple(_contrast(item) for item in node.elements("comparisons")),
        note=node.text("note"),
        seeds=tuple(int(seed) for item in node.elements("seeds") if (seed := item.as_number(0)) is not None),
        better=read_better(node, metric),
        input_shape=read_shape(node),
    )


def _arm(node: Node, root: Folder, top: float) -> StudyArm:
    name, kept = node.text("name", "?"), node.number("density", 0, 1)
    if kept is None:
        raise node.wrong("an arm with `density`")
    planned = node.number("plot_density", 0, 1)
    values = {figure: _values(node, figure) for figure in FIGURES}
    if not values["train_accuracy_eval"]:  # a run from before there was one: its gap was of a running mean
        values[GAP] = ()
    return StudyArm(
        name=name,
        family=node.text("family", name),
        method=node.text("method", "?"),
        kept=kept,
        density=kept if planned is None else planned,
        values=values,
        replicates=tuple(
            tuple(read_level(level, root, top) for level in levels.items()) for levels in node.elements("replicates")
        ),
    )


def _values(node: Node, figure: str) -> tuple[float, ...]:
    found = node.get(figure)
    read = () if found is None else (item.as_number() for item in found.elements("values"))
    return tuple(value for value in read if value is not None)


def _contrast(node: Node) -> Contrast:
    tested = node.get("test_accuracy")
    found = {figure: node.get(figure) for figure in FIGURES}
    return Contrast(
        arm=node.text("arm", "?"),
        against=node.text("against", "?"),
        paired=node.flag("paired", False),
        covers=SEEDS if tested is None else tested.text("covers", SEEDS),
        differences={
            figure: Difference(item.number("difference"), read_interval(item, "interval"))
            for figure, item in found.items()
            if item is not None
        },
    )
