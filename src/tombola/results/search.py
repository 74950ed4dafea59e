"""A finished search: its levels, over replicates and arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tombola.results.cost import SearchCost, search_cost
from tombola.results.record import About, Count, Parameters, Record, Settings
from tombola.results.trial import LevelResult
from tombola.runs.record import named

TICKET = "ticket"
"""The arm of the search itself; the others are controls."""
ARMS = (TICKET, "random", "reinit", "dense")


class Replicate(Record, frozen=True, kw_only=True):
    """One repetition of a search: its levels by arm, and the file of its last ticket."""

    replicate: Count
    seed: int | None
    ticket: str | None
    arms: dict[str, tuple[LevelResult, ...]]

    @property
    def levels(self) -> tuple[LevelResult, ...]:
        """The levels of the search itself."""
        return self.arms.get(TICKET, ())

    def map(self, change: Callable[[LevelResult], LevelResult]) -> Replicate:
        """The same with every level changed."""
        arms = {name: tuple(sorted(map(change, levels), key=lambda x: x.level)) for name, levels in self.arms.items()}
        return self.replace(arms=arms)


class SearchResult(About, frozen=True, kw_only=True, tag_field="kind", tag="find"):
    """What `find` or `study curve` gave. `input_shape`: of one example; `parameters`: what densities are of."""

    method: str
    input_shape: tuple[Count, ...] | None
    recipe: Settings | None
    parameters: Parameters | None
    replicates: tuple[Replicate, ...]

    def __post_init__(self) -> None:
        if not self.replicates or not all(replicate.levels for replicate in self.replicates):
            raise ValueError("a search has at least one replicate, and each of them a level")

    @property
    def pruned(self) -> bool:
        """Whether any network of the search lacks weights."""
        return any(level.density < 1 for rep in self.replicates for levels in rep.arms.values() for level in levels)

    @property
    def trained(self) -> bool:
        """Whether anything was trained, and not masks tried alone."""
        levels = [level for rep in self.replicates for levels in rep.arms.values() for level in levels]
        return not all(level.tried_masks for level in levels)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that have at least one level, the known ones first."""
        present = {name for rep in self.replicates for name, levels in rep.arms.items() if levels}
        return tuple(arm for arm in ARMS if arm in present) + tuple(sorted(present - set(ARMS)))

    def headed(self) -> dict[str, Any]:
        """`as_dict` with what a caller wants first: the ticket, its density and accuracy, and what the search cost."""
        head = {
            "metric": self.metric,
            "ticket": self.ticket,
            "density": self.density,
            "test_accuracy": self.test_accuracy,
            "dense_test_accuracy": self.dense_test_accuracy,
            "cost": self.cost.as_totals(),
        }
        return {**named(head), **self.as_dict()}

    @property
    def ticket(self) -> str | None:
        """The file of the first replicate's last ticket, under the run's directory where that is known."""
        file = self.replicates[0].levels[-1].ticket
        return file if self.run is None or file is None else f"{self.run}/{file}"

    @property
    def costs(self) -> tuple[SearchCost, ...]:
        """Of every replicate's search, without its controls."""
        return tuple(search_cost(replicate.levels, (self.recipe or {}).get("length")) for replicate in self.replicates)

    @property
    def cost(self) -> SearchCost:
        """Of the first replicate's search."""
        return self.costs[0]

    @property
    def density(self) -> float:
        """Of the first replicate's last ticket."""
        return self.replicates[0].levels[-1].density

    @property
    def test_accuracy(self) -> float | None:
        """Of the first replicate's last ticket."""
        return self.replicates[0].levels[-1].test_accuracy

    @property
    def dense_test_accuracy(self) -> float | None:
        """Of the first replicate's dense network; None where the search trained none, or stopped its training."""
        dense = self.replicates[0].levels[0]
        return dense.test_accuracy if dense.is_dense else None
