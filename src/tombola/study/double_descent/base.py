"""What a kind of curve is: its options, its threshold, and the models that it fits one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.results.double_descent import Axis, DescentFit, DescentPoint, Phase

if TYPE_CHECKING:
    from torch import nn

    from tombola.models.spec import ModelSpec
    from tombola.runs.stage import Stage
    from tombola.search.driver import Workspace
    from tombola.study.double_descent.examples import Examples
    from tombola.train.options import Options

TOO_MANY = 10_000
"""Points of a curve, at most."""


@dataclass(frozen=True)
class Points:
    """Where a replicate's points lie: each is a stage of its own, found again where it has finished."""

    work: Workspace
    replicate: int
    options: Options

    def stage(self, index: int) -> Stage | None:
        """The stage of a point; None in memory."""
        return self.work.stage(f"curve-{self.replicate}/point-{index:03}")

    def finished(self, index: int) -> DescentFit | None:
        """What a finished point gave."""
        from tombola.results.codec import recovered

        return recovered(DescentFit, self.stage(index))

    def keep(self, index: int, fit: DescentFit) -> DescentFit:
        """Write a point; gives it back."""
        stage = self.stage(index)
        if stage is not None:
            stage.finish(fit.as_dict())
        return fit


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of curve; its fields are its options.

    `axis`: what its models grow in; `peak_of`: the measure whose peak is looked for; `loss`: in which losses are
    given; `note`: what must be said beside every such curve; `few`: data set -> training examples that the command line
    takes of it, unless told otherwise; `version`: counts up when the same options give something
    else.
    """

    name: ClassVar[str]
    axis: ClassVar[Axis]
    peak_of: ClassVar[str] = "test_loss"
    loss: ClassVar[str] = "squared loss"
    note: ClassVar[str] = ""
    few: ClassVar[Mapping[str, int]] = {}
    version: ClassVar[int] = 1
    why_not: ClassVar[Mapping[str, str]] = {
        "augment": "every model is fitted to the same examples, as they are",
        "device": "it is fitted on the CPU",
        "deterministic": "it is fitted on the CPU, to the same bits every time",
        "loggers": "it has no training curves that are logged",
    }

    @property
    def model(self) -> str | None:
        """The network's name, of a kind that has one."""
        return None

    @property
    def parts(self) -> tuple[nn.Module | ModelSpec, ...]:
        """What other processes need by name, beside the data."""
        return ()

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def filled(self, examples: Examples) -> Self:
        """The options with all that was left open filled in from the data.

        Raises:
            TombolaError: the kind cannot work on this data, or would not fit into memory.
        """

    @abstractmethod
    def threshold(self, examples: Examples, points: Sequence[DescentFit]) -> float | None:
        """The size from which on every training example can be fitted; `points` is the first series, measured."""

    def check(self, work: Workspace, options: Options, seed: int) -> None:
        """Meet mistakes that the options alone do not show, before anything is fitted or written.

        Without an own one: options of training, which a kind fitted on the CPU has no use for.
        """
        augment = work.data.augment if isinstance(work.data, DataSpec) else None
        given = {
            "augment": augment is not None and augment.active,
            "device": options.device not in ("auto", "cpu"),
            "deterministic": options.deterministic,
            "loggers": bool(options.loggers),
        }
        for option in (name for name, there in given.items() if there):
            raise TombolaError(f"{option} has no effect on kind {self.name}: {self.why_not[option]}; leave it out")

    def phases(self, points: Sequence[DescentFit]) -> tuple[Phase, ...]:
        """Stretches of the curve that the kind marks; `points` is the first series, measured."""
        return ()

    def remark(self, points: Sequence[DescentPoint]) -> str:
        """What the result says of the first series beside its peak; "" for nothing."""
        return ""

    @abstractmethod
    def count(self) -> int:
        """How many points a filled kind has."""

    @abstractmethod
    def fits(self, examples: Examples, seed: int, points: Points) -> Iterator[DescentFit]:
        """The models of one replicate, in the order of the curve; each is taken from `points` where it has finished."""


def check_sizes(name: str, sizes: Sequence[int], most: int = 10_000_000) -> None:
    """TombolaError unless there are whole numbers from 1 to `most`, each once."""
    if not sizes:
        raise TombolaError(f"{name} is empty; give at least one size")
    if len(sizes) > TOO_MANY:
        raise TombolaError(f"{name} has {len(sizes):,} sizes; give at most {TOO_MANY:,}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
            raise TombolaError(f"{name} has {size!r}; sizes are whole numbers of at least 1, at most {most:,}")
    if len(set(sizes)) < len(sizes):
        twice = next(size for size in sizes if list(sizes).count(size) > 1)
        raise TombolaError(f"{name} has {twice:,} twice; give every size once")


def check_multiples(multiples: Sequence[float]) -> None:
    """TombolaError unless there are finite numbers above 0."""
    if not multiples:
        raise TombolaError("multiples is empty; give at least one")
    for multiple in multiples:
        if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not 0 < multiple <= 1000:
            raise TombolaError(f"multiples has {multiple!r}; they are numbers above 0, at most 1,000")


def check_one_of(multiples: Sequence[float] | None, **sizes: Sequence[int] | None) -> None:
    """TombolaError where sizes are given as numbers and as multiples of the threshold too."""
    for name, given in sizes.items():
        if multiples is not None and given is not None:
            raise TombolaError(f"multiples and {name} are both given, and {name} alone would hold; give one of them")


def sizes_of(multiples: Sequence[float], unit: float) -> tuple[int, ...]:
    """The sizes that are these multiples of a unit, at least 1, each once, from small to large."""
    return tuple(sorted({max(1, round(multiple * unit)) for multiple in multiples}))
