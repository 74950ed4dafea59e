"""A reproduction written down: what a paper claims, the commands that try it, and where in their results to look.

The files lie in `study/reproductions`. Nothing in them is evaluated::

    title: Winning tickets over density
    paper: "Frankle & Carbin 2019, The Lottery Ticket Hypothesis, ICLR, Figure 1"
    claimed: what the paper says, in a sentence or two
    runs:
      curve:
        command: study curve imp
        shared: {model: lenet-300-100, data: mnist}
        quick: {length: 1000it}
        full: {length: 50000it}
    claims:
      - what: a ticket of 21 % learns faster than the dense network
        published: "38 % earlier"
        of: {run: curve, arm: ticket, density: 0.21, column: early_stop_iteration}
        against: {arm: dense}
        expect: below

A run has a `command` of Tombola, or a `study`, as a file for `tombola study FILE.yaml` holds it. `shared` options hold
in both forms. `repeats` runs it with as many seeds one after the other, where a study has no replicates of its own;
replicates asked for take its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.results.trial import LevelResult
from tombola.study.definition import Definition, read_yaml

FOLDER = Path(__file__).parents[1] / "reproductions"
"""Where the reproductions lie that come with Tombola, NAME.yaml each."""

Form = Literal["quick", "full"]
FORMS: tuple[Form, ...] = ("quick", "full")


ASKED = ("seed", "out", "data_root", "jobs", "json")
"""What whoever reproduces asks for; no file says it."""
_YEAR = re.compile(r"(?<=\d{4})[, ]")
"""What follows authors and year."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a file: unknown keys are errors."""


class Command(_Part, frozen=True, kw_only=True):
    """What is run. Exactly one of `command` and `study` is given."""

    command: str | None = None
    study: Definition | None = None
    shared: dict[str, Any] = {}
    quick: dict[str, Any] = {}
    full: dict[str, Any] = {}
    repeats: int = 1

    def __post_init__(self) -> None:
        if (self.command is None) == (self.study is None):
            raise ValueError("a run needs a command or a study, and not both")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}, but it must be at least 1")
        if self.command is not None and self.command.split()[:1] == ["reproduce"]:
            raise ValueError(f"{self.command!r} would run reproductions within one; name the studies themselves")
        for name in (name for name in (*self.shared, *self.quick, *self.full) if name in ASKED):
            raise ValueError(f"{name} is said where a reproduction is run, not in its file; leave it out")

    def options(self, form: Form) -> dict[str, Any]:
        """The options in one of the forms."""
        return {**self.shared, **(self.quick if form == "quick" else self.full)}


class Place(_Part, frozen=True, kw_only=True):
    """Where a value stands in a run's result.

    Of a comparison: `arm` by its name, or the arm of a `family` that is nearest to a `density` ("chosen": best on the
    validation split). Of a search or a curve: `arm` is ticket, random, reinit or dense, at the level nearest to a
    `density`. `level`: another level of that search than its last. `column` is a figure of the network that was trained
    there; `minus` is taken from it. Of any other result: a `path` such as "curve[density=0.2].test_error", with a
    `name` for readers: "test error at 20 %".
    """

    run: str | None = None
    arm: str | None = None
    family: str | None = None
    density: float | Literal["chosen"] | None = None
    level: int | None = None
    column: str = "test_accuracy"
    minus: str | None = None
    path: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.arm, self.family, self.path)) != 1:
            raise ValueError("a place needs an arm, a family or a path, and one of them only")
        if self.family is not None and self.density is None:
            raise ValueError(f"family {self.family!r} is a curve: name a density on it")
        for name in (name for name in (self.column, self.minus) if name and self.path is None):
            if name.split(".")[0] not in LevelResult.__struct_fields__:
                raise ValueError(unknown("column", name, LevelResult.__struct_fields__))
        if self.name is not None and self.path is None:
            raise ValueError(f"name {self.name!r} is of a path; arms and families have names")

    @property
    def words(self) -> str:
        """Where it is, in a few words: "ticket at 21 %"."""
        if self.path is not None:
            return self.name or self.path
        place = self.arm or self.family or ""
        if self.density == "chosen":
            place += " at the density that is best in validation"
        elif self.density is not None:
            place += f" at {100 * self.density:.3g} %"
        return place if self.level is None else f"{place}, level {self.level}"

    @property
    def quantity(self) -> str:
        """What stands there: "training accuracy − test accuracy"."""
        if self.path is not None:
            return ""
        return " − ".join(_NAMES.get(name, name.replace("_", " ")) for name in (self.column, self.minus) if name)


_NAMES = {
    "channels.drawn": "iteration at which the ticket is drawn",
    "early_stop_iteration": "iteration of the lowest validation loss",
    "val_accuracy": "validation accuracy",
    "train_accuracy_eval": "training accuracy",
    "test_accuracy_early_stop": "test accuracy at early stop",
}


class Claim(_Part, frozen=True, kw_only=True):
    """What a paper claims of a value, or of how it differs from another one (`against`), or of their `ratio`.

    `expect`: above or below `than` (0; 1 of a ratio), equal to it `within` a margin, or near a published `value`
    `within` a tolerance; the last is decided in the full form alone. `forms`: where it can be tried at all.
    """

    what: str
    published: str
    of: Place
    expect: Literal["above", "below", "equal", "near"]
    against: Place | None = None
    ratio: bool = False
    than: float | None = None
    value: float | None = None
    within: float | None = None
    unit: str | None = None
    forms: tuple[Form, ...] = FORMS

    def __post_init__(self) -> None:
        if self.ratio and self.against is None:
            raise ValueError("a ratio needs against: what it is a ratio to")
        if (self.expect in ("equal", "near")) != (self.within is not None) or (self.within or 0) < 0:
            raise ValueError("within goes with expect equal or near, and is at least 0")
        if (self.expect == "near") != (self.value is not None):
            raise ValueError("a published value goes with expect near")

    @property
    def places(self) -> tuple[Place, ...]:
        """Both places, what the second leaves open being the first's."""
        if self.against is None:
            return (self.of,)
        same = {
            "run": self.against.run or self.of.run,
            "column": self.of.column if self.against.column == "test_accuracy" else self.against.column,
            "minus": self.against.minus or self.of.minus,
        }
        return self.of, msgspec.structs.replace(self.against, **same)

    @property
    def measured(self) -> str:
        """What is measured, in words."""
        return self._between([place.words for place in self.places])

    @property
    def located(self) -> str:
        """The same with paths instead of their names, as records hold it that were written before there were names."""
        return self._between([place.path or place.words for place in self.places])

    def _between(self, places: Sequence[str]) -> str:
        names = (" / " if self.ratio else " − ").join(places)
        return f"{names}: {self.of.quantity}" if self.of.quantity else names

    @property
    def scale(self) -> str:
        """The unit of what is measured, for `formats.Unit`."""
        if self.ratio:
            return "ratio"
        column = self.of.column if self.of.path is None else self.of.path
        return self.unit or ("accuracy" if "accuracy" in column else "iterations" if "iteration" in column else column)


class Reproduction(_Part, frozen=True, kw_only=True):
    """The content of a reproduction's file."""

    title: str
    paper: str
    claimed: str
    runs: dict[str, Command]
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        if not self.runs or not self.claims:
            raise ValueError("a reproduction needs at least one run and one claim")
        for place in (place for claim in self.claims for place in claim.places):
            if place.run is None and len(self.runs) > 1:
                raise ValueError(f"{place.words}: there are several runs; say which")
            if place.run is not None and place.run not in self.runs:
                raise ValueError(f"{place.words}: there is no run {place.run}; there are {', '.join(self.runs)}")

    @property
    def source(self) -> str:
        """The paper by authors and year: "Zhou et al. 2019"."""
        return _YEAR.split(self.paper)[0]

    def run_of(self, place: Place) -> str:
        """The name of the run that a place is in."""
        return place.run or next(iter(self.runs))

    def claims_in(self, form: Form) -> tuple[Claim, ...]:
        """The claims that a form tries."""
        return tuple(claim for claim in self.claims if form in claim.forms)


def names() -> list[str]:
    """The reproductions that come with Tombola."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_reproduction(name: str) -> Reproduction:
    """One of `names`, or a YAML file of one's own.

    Raises:
        TombolaError: there is none of that name, or the file holds no reproduction.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in names():
        raise TombolaError(unknown("reproduction", name, names(), ", or a file of your own that ends in .yaml"))
    file = Path(name) if own else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise TombolaError(f"{file}: no such file; name a reproduction, or a file of your own that ends in .yaml")
    return converted(read_yaml(file), str(file))


def converted(content: Mapping[str, Any], where: str) -> Reproduction:
    """The content of a file as a reproduction; TombolaError names what is wrong in it."""
    try:
        return msgspec.convert(content, Reproduction, strict=False)
    except msgspec.ValidationError as error:
        raise TombolaError(f"{where} defines no reproduction: {error}") from None
