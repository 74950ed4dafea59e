"""What all results are: frozen records that msgspec reads and writes, under the keys of `result.json`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from tombola.runs.record import named

Count = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
"""A density: kept / total."""
Interval = tuple[float, float]
"""The lower and the upper end."""
Settings = dict[str, Any]
"""A dataclass of settings (a recipe, a method's options) as JSON-able values."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A result or a part of one. A field with a default is left out of the JSON where it holds it."""

    def as_dict(self) -> dict[str, Any]:
        """As `result.json` holds it; of another metric than accuracy also under names such as test_metric."""
        return named(json.loads(msgspec.json.encode(self)))

    def replace(self, **changes: Any) -> Self:
        """The same record with other values in some fields."""
        return msgspec.structs.replace(self, **changes)


class LeftOut(Record, frozen=True, kw_only=True):
    """A parameter that is not prunable by default, and why."""

    name: str
    shape: tuple[Count, ...]
    size: Count
    why: str


class Parameters(Record, frozen=True, kw_only=True):
    """What a density is a fraction of: `prunable` of `total` parameters."""

    total: Count
    prunable: Count
    left_out: tuple[LeftOut, ...]


class Figure(Record, frozen=True, kw_only=True):
    """A number over replicates: mean and two-sided 95 % interval, None where too few replicates have one."""

    mean: float | None
    interval: Interval | None
    values: tuple[int | float | None, ...]  # counts are written as they are

    @property
    def known(self) -> tuple[float, ...]:
        """The values of the replicates that have one."""
        return tuple(value for value in self.values if value is not None)


class About(Record, frozen=True, kw_only=True):
    """What a whole run's result is about. `run`, `reused`: of a run on disk, its directory and whether nothing was
    trained because it was found finished."""

    model: str | None
    data: str
    metric: str
    higher_is_better: bool
    run: str | None = None
    reused: bool | None = None

    @property
    def better(self) -> str:
        """Which values of the metric are better: "higher" or "lower"."""
        return "higher" if self.higher_is_better else "lower"
