"""Curves over density from the same dense networks: each search's levels are arms, compared at the same density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from tombola.data.splits import Splits
from tombola.formats import density as in_percent
from tombola.levels.search import Level
from tombola.methods.dense import DenseTraining
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.search.describe import describe, describe_training
from tombola.search.driver import Experiment, Workspace
from tombola.search.find import parameters, search_replicate
from tombola.search.request import Request, name_of_model
from tombola.study.compare import Searched, check_arm, comparison_of, outcomes_of, summarise
from tombola.study.grid import GridSearch
from tombola.study.setting import Arm

DENSE = "dense"


@dataclass(frozen=True)
class GridStudy(Experiment[Request, ComparisonResult]):
    """Searches that share one dense network per replicate.

    Args:
        request: that of the dense networks.
        study: what its runs are called.
        searches: those that others are compared with come before them.
        chooses: whether the best density of each curve is chosen, on the validation split.
    """

    result = ComparisonResult

    study: str
    searches: tuple[GridSearch, ...]
    summary: str
    note: str
    chooses: bool = False

    def label(self, splits: Splits) -> str:
        """What the run directory is called: study, model and data."""
        return f"{self.study}-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        """All that the result depends on; its hash names the run."""
        described = describe(self.request, splits)
        return {
            "study": self.study,
            **{part: described[part] for part in ("model", "data", "task", "recipe")},
            "arms": [{"name": search.arm.name, **_method_of(search.arm)} for search in self.searches],
            "seed": self.request.seed,
            "replicates": self.request.replicates,
        }

    def check(self, work: Workspace) -> None:
        """TombolaError if one of the searches cannot work."""
        for search in self.searches:
            check_arm(search.arm, self.request, work)

    def compute(self, work: Workspace) -> ComparisonResult:
        """Trains the dense networks, then every search from them."""
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
        return _searched(search_replicate(self.request, work, replicate, prefix=_dense(replicate)))

    def search(self, work: Workspace, job: tuple[int, int]) -> Searched:
        """One replicate of one search, both by their index, from that replicate's dense network."""
        arm, replicate = self.searches[job[0]].arm, job[1]
        request = replace(self.request, method=arm.method)
        prefix = f"{arm.folder}/replicate-{replicate}"
        return _searched(search_replicate(request, work, replicate, prefix=prefix, dense=_dense(replicate)))

    def renewed(self, work: Workspace, result: ComparisonResult) -> ComparisonResult:
        """A finished result with the present wording of note and summary."""
        return result.replace(note=self.note, summary=self.summary)

    def _result(
        self, work: Workspace, dense: Sequence[Searched], found: Sequence[Sequence[Searched]]
    ) -> ComparisonResult:
        arms, points = [Arm(DENSE, DenseTraining(), self.request.recipe, 1.0)], [dense]
        for search, replicates in zip(self.searches, found, strict=True):
            for arm, point in _points(search, replicates, taken={arm.name for arm in arms}):
                arms.append(replace(arm, against=_counterpart(search.against, arm, arms)))
                points.append(point)
        outcomes = [outcomes_of(work.folder, replicates) for replicates in points]
        summary = summarise(arms, points, outcomes)
        counted = parameters(self.request, work.splits, dense[0].levels[0].total)
        result = comparison_of(self.request, work.splits, summary, counted)
        return result.replace(
            study=self.study,
            note=self.note,
            summary=self.summary,
            chosen=_chosen(result) if self.chooses else (),
        )


def _searched(levels: Sequence[Level]) -> Searched:
    """What a search gave, without the masks that its trainings went through, which the stages' own results hold."""
    found = Searched.of(levels)
    return replace(found, levels=tuple(level.replace(mask_histories=None) for level in found.levels))


def _dense(replicate: int) -> str:
    return f"{DENSE}/replicate-{replicate}"


def _method_of(arm: Arm) -> dict[str, Any]:
    return {key: value for key, value in describe_training(arm.method, arm.recipe).items() if key != "recipe"}


def _points(search: GridSearch, replicates: Sequence[Searched], taken: set[str]) -> list[tuple[Arm, list[Searched]]]:
    """Every level after the dense one as an arm, and each replicate as far as it."""
    points = []
    for place in range(1, len(replicates[0].levels)):
        first = place if search.one_shot else 1
        cut = [
            replace(searched, levels=(searched.levels[0], *searched.levels[first : place + 1]))
            for searched in replicates
        ]
        density = cut[0].levels[-1].density
        name = f"{search.arm.family} at {in_percent(density)}"
        if name in taken:  # two levels that look alike when rounded
            name = f"{name} (level {place})"
        taken.add(name)
        points.append((replace(search.arm, name=name, density=density), cut))
    return points


def _counterpart(family: str | None, arm: Arm, arms: Sequence[Arm]) -> str:
    """The arm of a family that is nearest in density, by the plan the same."""
    others = [other for other in arms if other.family == family] if family is not None else []
    if not others:
        return DENSE
    return min(others, key=lambda other: abs((other.density or 0.0) - (arm.density or 0.0))).name


def _chosen(result: ComparisonResult) -> tuple[str, ...]:
    """Of every curve the arm with the best mean on the validation split; of equal ones the sparsest."""
    sign = 1 if result.higher_is_better else -1

    def rank(arm: ComparedArm) -> tuple[float, float]:
        return sign * fmean(arm.val_accuracy.known), -arm.plotted

    curves = [[arm for arm in arms if not arm.dense and arm.val_accuracy.known] for arms in result.families.values()]
    return tuple(max(arms, key=rank).name for arms in curves if arms)
