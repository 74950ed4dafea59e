"""A study of what two masks share, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tombola.report.levels import FEWEST, Folder, Layer, read_better, read_interval, read_shape
from tombola.report.nodes import Node

SHARED = ("both", "expected", "ratio", "ratio_same_inputs", "ratio_same_sizes", "jaccard", "z")
SIDE = ("kept", "density", "positive", "positive_by_chance", "magnitude", "flipped")


@dataclass(frozen=True)
class Figure:
    """A number over replicates: its values where there are any, their mean, and the mean's 95 % interval."""

    values: tuple[float, ...] = ()
    mean: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class SharedLayer:
    """What the masks share of one layer, or of all: figures of SHARED, and of SIDE for each of the two."""

    name: str
    total: int
    shared: Mapping[str, Figure]
    sides: tuple[Mapping[str, Figure], Mapping[str, Figure]]

    def layer(self, side: int) -> Layer:
        """What one of the masks keeps here, to the nearest weight."""
        return Layer(self.name, min(round(self.sides[side]["kept"].mean or 0), self.total), self.total)


@dataclass(frozen=True)
class Tried:
    """One mask on the weights that all began with: untrained, trained under it, and as its search ended."""

    mask: str
    density: float
    untrained: Figure
    trained: Figure
    searched: Figure
    tickets: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Gain:
    """One mask minus another, paired by replicate."""

    of: str
    against: str
    untrained: Figure
    trained: Figure


@dataclass(frozen=True)
class MaskOverlap:
    """What the study of two masks found."""

    names: tuple[str, str]
    model: str
    data: str
    metric: str
    replicates: int
    layers: tuple[SharedLayer, ...]
    whole: SharedLayer
    accuracy: tuple[Tried, ...]
    gains: tuple[Gain, ...]
    sentence: str
    note: str
    better: str | None = None
    input_shape: tuple[int, ...] | None = None

    @property
    def gaps(self) -> list[str]:
        """What the study lacks, in plain words."""
        if self.replicates >= FEWEST:
            return []
        return [f"There are no intervals: they need {FEWEST} replicates, and the study has {self.replicates}."]


def read_overlap(node: Node, root: Folder) -> MaskOverlap:
    """The overlap study in a result; its tickets are files under ``root``."""
    metric = node.text("metric", "accuracy")
    names = [str(item.value) for item in node.elements("names")]
    whole = node.get("whole")
    if len(names) != 2 or whole is None:
        raise node.wrong("an overlap with two `names` and the `whole`")
    return MaskOverlap(
        names=(names[0], names[1]),
        model=node.text("model", "?"),
        data=node.text("data", "?"),
        metric=metric,
        replicates=node.integer("replicates") or 0,
        layers=tuple(_layer(item) for item in node.elements("layers")),
        whole=_layer(whole),
        accuracy=tuple(_tried(item, root) for item in node.elements("accuracy")),
        gains=tuple(
            Gain(item.text("of", "?"), item.text("against", "?"), _figure(item, "untrained"), _figure(item, "trained"))
            for item in node.elements("differences")
        ),
        sentence=node.text("sentence"),
        note=node.text("note"),
        better=read_better(node, metric),
        input_shape=read_shape(node),
    )


def _layer(node: Node) -> SharedLayer:
    total = node.integer("total")
    sides = [node.get(name) for name in ("first", "second")]
    if total is None or None in sides:
        raise node.wrong("a layer with `total`, `first` and `second`")
    read = [{part: _figure(side, part) for part in SIDE} for side in sides if side is not None]
    shared = {part: _figure(node, part) for part in SHARED}
    return SharedLayer(node.text("name", "?"), total, shared, (read[0], read[1]))


def _tried(node: Node, root: Folder) -> Tried:
    density = node.number("density", 0, 1)
    if density is None:
        raise node.wrong("a mask with `density`")
    untrained, trained, searched = (_figure(node, part) for part in ("untrained", "trained", "searched"))
    files = (root.inside(str(item.value)) for item in node.elements("tickets") if item.value is not None)
    known = tuple(file for file in files if file is not None)
    return Tried(node.text("mask", "?"), density, untrained, trained, searched, known)


def _figure(node: Node, key: str) -> Figure:
    found = node.get(key)
    if found is None:
        return Figure()
    values = (item.as_number() for item in found.elements("values"))
    known = tuple(value for value in values if value is not None)
    return Figure(known, found.number("mean"), read_interval(found, "interval"))
