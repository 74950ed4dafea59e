"""One trained network of a run, as plain data: its figures, and what it kept of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tombola.report.nodes import Node

FEWEST = 3  # values that an interval needs, as in verify


@dataclass(frozen=True)
class Layer:
    """Weights kept in one layer."""

    name: str
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Kept of all; 0 for a layer without weights."""
        return self.kept / self.total if self.total else 0.0


@dataclass(frozen=True)
class Utilisation:
    """Density of every layer at one iteration of training."""

    step: int
    densities: Mapping[str, float]


@dataclass(frozen=True)
class Level:
    """One trained network of one arm. Accuracies and densities are fractions; absent values are None."""

    level: int
    density: float
    kept: int | None = None
    total: int | None = None
    barred_kept: int = 0
    early_stop_iteration: int | None = None
    early_stop_observed: bool = False
    test_accuracy: float | None = None
    test_accuracy_early_stop: float | None = None
    val_accuracy: float | None = None
    val_loss_min: float | None = None
    train_accuracy: float | None = None
    steps: int | None = None
    seconds: float | None = None
    layers: tuple[Layer, ...] = ()
    utilisation: tuple[Utilisation, ...] = ()
    metrics: Path | None = None
    ticket: Path | None = None


@dataclass(frozen=True)
class Folder:
    """A run's directory, and what in it is not as it was written."""

    path: Path
    damaged: frozenset[Path] = frozenset()

    def inside(self, name: str) -> Path | None:
        """The file of that name, if it is whole and stays inside: a run may only name its own files."""
        path = self.path / name
        if path in self.damaged:
            return None
        try:
            path.is_file()  # refuses names that no file can have
            return path if path.resolve().is_relative_to(self.path.resolve()) else None
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
            return None


def read_interval(node: Node, key: str) -> tuple[float, float] | None:
    """The two ends under ``key``, the lower first; None where they are absent or not finite."""
    ends = [item.as_number() for item in node.elements(key)]
    if not ends:
        return None
    if len(ends) != 2:
        raise Node(len(ends), f"{node.where}.{key} (length)").wrong("2 ends")
    low, high = ends
    return None if low is None or high is None else (min(low, high), max(low, high))


def read_better(node: Node, metric: str) -> str | None:
    """Whether a result's metric is better when "higher" or "lower"; None where an older result does not say."""
    if node.get("higher_is_better") is None:
        return "higher" if metric == "accuracy" else None
    return "higher" if node.flag("higher_is_better", True) else "lower"


def read_shape(node: Node) -> tuple[int, ...] | None:
    """The shape of one input example; None where an older result does not say."""
    sizes = [item.as_number(1) for item in node.elements("input_shape")]
    return tuple(int(size) for size in sizes if size is not None) if sizes and None not in sizes else None


def _layer(node: Node) -> Layer:
    kept, total = node.integer("kept"), node.integer("total")
    if kept is None or total is None or kept > total:
        raise Node(node.value, node.where).wrong("a layer with 0 <= kept <= total")
    return Layer(node.text("name", "?"), kept, total)


def _utilisation(node: Node) -> Utilisation:
    step = node.integer("step")
    densities = {name: item.as_number(0, 1) for name, item in node.members("densities")}
    if step is None:
        raise node.wrong("a `step` with `densities`")
    return Utilisation(step, {name: value for name, value in densities.items() if value is not None})


def read_level(node: Node, root: Folder, top: float) -> Level:
    """One level of a result; ``top`` is the greatest value that the metric can have."""
    index, density = node.integer("level"), node.number("density", 0, 1)
    if index is None or density is None:
        raise node.wrong("a level with `level` and `density`")
    stop = node.integer("early_stop_iteration")
    metrics, ticket = node.text("metrics"), node.text("ticket")
    return Level(
        level=index,
        density=density,
        kept=node.integer("kept"),
        total=node.integer("total"),
        barred_kept=node.integer("barred_kept") or 0,
        early_stop_iteration=stop,
        early_stop_observed=stop is not None and node.flag("early_stop_observed", True),
        test_accuracy=node.number("test_accuracy", -top, top),
        test_accuracy_early_stop=node.number("test_accuracy_early_stop", -top, top),
        val_accuracy=node.number("val_accuracy", -top, top),
        val_loss_min=node.number("val_loss_min"),
        train_accuracy=node.number("train_accuracy", -top, top),
        steps=node.integer("steps"),
        seconds=node.number("seconds", 0),
        layers=tuple(_layer(item) for item in node.elements("layers")),
        utilisation=tuple(_utilisation(item) for item in node.elements("utilisation")),
        metrics=root.inside(metrics) if metrics else None,
        ticket=root.inside(ticket) if ticket else None,
    )
