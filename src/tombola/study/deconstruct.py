"""Lottery tickets taken apart (Zhou et al. 2019): every criterion with every kept and pruned action, against density.

All combinations prune the same dense networks: level 0 is trained once per replicate and shared. At every level a
combination is compared with the reference (large_final / rewind / zero) at the same level, paired by replicate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.fields import checked
from tombola.formats import density as in_percent
from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.results.comparison import ComparisonResult
from tombola.search.describe import describe, describe_training
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, search_replicate
from tombola.search.request import Request, make_request, name_of_model
from tombola.study.compare import Searched, check_arm, comparison_of, outcomes_of, summarise
from tombola.study.grid import Combination, Grid, GridSearch, dense_of, searches_of
from tombola.study.setting import Arm, check_arms
from tombola.train.options import Options
from tombola.train.recipe import Recipe

__all__ = ["run_deconstruction"]

DENSE = "dense"
SUMMARY = "Which part of a lottery ticket matters: which weights are kept, what they return to, or what the others are?"
NOTE = "All arms train by one recipe; its learning rate has not been tuned for each."


@checked
def run_deconstruction(
    grid: Grid,
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    pruning: IterativePruning | Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> ComparisonResult:
    """Search with every combination of the grid `replicates` times, in a run directory under `out`.

    Args:
        grid: the criteria, kept and pruned actions that are crossed.
        pruning: how far and by which rates is pruned; a criterion or action in it gives way to the grid's. None or a
            mapping of fields starts from the preset of imp.
        recipe: how all networks are trained; None or a mapping of fields starts from that preset.
        jobs: processes that share the searches out (model and data given by name).

    Returns:
        An arm "dense", then one for every combination and level, named "large_final / rewind / zero at 32.87 %", of the
        combination's family. Stages lie in `<run>/dense/replicate-<r>/` and `<run>/<combination>/replicate-<r>/`.

    Raises:
        TombolaError: a combination cannot work on this network and data; raised before anything is trained.
    """
    request = make_request(
        model, data, "imp" if pruning is None else pruning, recipe=recipe, seed=seed, replicates=replicates,
        options=options,
    )  # fmt: skip
    assert isinstance(request.method, IterativePruning)
    searches = searches_of(grid, request.method, request.recipe)
    check_arms([search.arm for search in searches])
    dense = Arm(DENSE, dense_of(request.method), request.recipe)
    return run(_Deconstruction(replace(request, method=dense.method), tuple(searches), grid.reference), Path(out), jobs)


@dataclass(frozen=True)
class _Deconstruction(Experiment[Request, ComparisonResult]):
    """`request`: that of the dense networks."""

    result = ComparisonResult

    searches: tuple[GridSearch, ...]
    reference: Combination

    def label(self, splits: Splits) -> str:
        return f"deconstruct-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        described = describe(self.request, splits)
        arms = [search.arm for search in self.searches]
        return {
            "study": "deconstruct",
            **{part: described[part] for part in ("model", "data", "task", "recipe")},
            "arms": [{"name": arm.name, **_method_of(arm)} for arm in arms],
            "seed": self.request.seed,
            "replicates": self.request.replicates,
        }

    def check(self, work: Workspace) -> None:
        for search in self.searches:
            check_arm(search.arm, self.request, work)

    def compute(self, work: Workspace) -> ComparisonResult:
        replicates = range(self.request.replicates)
        # all dense networks first: the searches of several processes then find theirs finished
        dense = [found for _, found in work.map(self.train_dense, replicates, "dense networks")]
        jobs = [(search, index) for index in replicates for search in range(len(self.searches))]
        found: list[list[Searched]] = [[] for _ in self.searches]
        for (search, _), searched in work.map(self.search, jobs, "searches"):
            found[search].append(searched)
        return self._result(work, dense, found)

    def train_dense(self, work: Workspace, replicate: int) -> Searched:
        """The dense network of one replicate."""
        levels = search_replicate(self.request, work, replicate, prefix=_dense(replicate))
        return Searched.of(levels)

    def search(self, work: Workspace, job: tuple[int, int]) -> Searched:
        """One replicate of one search, both by their index, from that replicate's dense network."""
        arm, replicate = self.searches[job[0]].arm, job[1]
        request = replace(self.request, method=arm.method)
        prefix = f"{arm.folder}/replicate-{replicate}"
        return Searched.of(search_replicate(request, work, replicate, prefix=prefix, dense=_dense(replicate)))

    def _result(
        self, work: Workspace, dense: Sequence[Searched], found: Sequence[Sequence[Searched]]
    ) -> ComparisonResult:
        arms = [Arm(DENSE, DenseTraining(), self.request.recipe, 1.0)]
        points: list[Sequence[Searched]] = [dense]
        references: dict[tuple[int, float], str] = {}
        for search, replicates in sorted(zip(self.searches, found, strict=True), key=lambda pair: self._order(pair[0])):
            for arm, point in _points(search, replicates):
                place = (len(point[0].levels), arm.density or 0.0)
                reference = search.combination == self.reference
                if reference:
                    references[place] = arm.name
                arms.append(replace(arm, against=DENSE if reference else references[place]))
                points.append(point)
        outcomes = [outcomes_of(work.folder, replicates) for replicates in points]
        counted = parameters(self.request, work.splits, dense[0].levels[0].total)
        result = comparison_of(self.request, work.splits, summarise(arms, points, outcomes), counted)
        return result.replace(study="deconstruct", note=NOTE, summary=SUMMARY)

    def _order(self, search: GridSearch) -> bool:
        """The reference before all others, which stay in their order."""
        return search.combination != self.reference


def _dense(replicate: int) -> str:
    return f"{DENSE}/replicate-{replicate}"


def _method_of(arm: Arm) -> dict[str, Any]:
    return {key: value for key, value in describe_training(arm.method, arm.recipe).items() if key != "recipe"}


def _points(search: GridSearch, replicates: Sequence[Searched]) -> list[tuple[Arm, list[Searched]]]:
    """Every level after the dense one as an arm, and each replicate as far as it."""
    points = []
    for place in range(1, len(replicates[0].levels)):
        cut = [replace(searched, levels=searched.levels[: place + 1]) for searched in replicates]
        density = cut[0].levels[-1].density
        name = f"{search.combination.name} at {in_percent(density)}"
        points.append((replace(search.arm, name=name, density=density), cut))
    return points
