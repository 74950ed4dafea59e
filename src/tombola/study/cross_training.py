"""Two searches on the same weights: what their masks share, and how each mask does by the other's kind of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.formats import Fixed
from tombola.mask import Mask
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.overlap import (
    MaskDifference,
    MaskResult,
    MaskTrial,
    OverlapResult,
    PairOverlap,
    SharedLayer,
)
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.stage import Stage
from tombola.runs.versions import versions
from tombola.search.describe import code_of, describe_data, describe_model, describe_training
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, replicate_seed
from tombola.search.origin import start_from
from tombola.search.request import Request, as_data, as_model, name_of_model
from tombola.study.arms import random_mask
from tombola.study.compare import search_arm
from tombola.study.intervals import intervals_in_words
from tombola.study.mask_overlap import compare_tickets, over_replicates
from tombola.study.mask_trial import mask_trial
from tombola.study.measured import study_fields, training_setup
from tombola.study.same_start import check_same_start, network_of
from tombola.study.setting import Arm, check_arms
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

__all__ = ["DEFAULT_INIT", "run_overlap"]

DEFAULT_INIT = "kaiming_normal"
"""Both searches begin with the same weights; these differ in size, as magnitudes must to mean anything."""

_RATIO = Fixed("ratio", 2)

MASKS = ("dense", "first", "second", "random-first", "random-second")
"""The masks that are tried in every replicate, on the same weights."""
SEARCHED = MASKS[1:3]
DIFFERENCES = (
    ("second", "first"),
    ("first", "random-first"),
    ("second", "random-second"),
    ("first", "dense"),
    ("second", "dense"),
)

NORMS = (
    "Untrained networks keep the norm layers' first statistics, which training would have changed: compare them "
    "with one another only."
)


def run_overlap(
    arms: tuple[Arm, Arm],
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> OverlapResult:
    """Search with both arms from the same weights, compare the masks, and train each as the other was.

    In every replicate both masks, random masks with the layer densities of each, and the dense network are tested
    twice: on the weights they began with, untrained, as a supermask works; and with the weights trained under the
    mask, as a lottery ticket is, in the same data order. Searches lie in `<run>/<arm>/replicate-<r>/`, the
    networks trained afterwards in `<run>/exchange/replicate-<r>/`; finished stages are found again.

    Args:
        arms: the two searches; their methods must start from the weights that they are given.
        model: as in `find`; a network by name without an initialisation gets DEFAULT_INIT.
        recipe: how weights are trained under the masks; None takes the first arm's.
        jobs: processes that share searches and trainings out (model and data given by name).

    Returns:
        `layers` and `whole` (numbers as mean, interval and values over replicates), `accuracy` by mask, `differences`,
        a `sentence`, and the `run`.

    Raises:
        TombolaError: an arm cannot work here or the two would not start from the same weights and layers;
            raised before anything is trained.
    """
    check_arms(arms)
    spec, source = _from_one_start(model), as_data(data, model)
    first = Request(spec, source, arms[0].method, arms[0].recipe, seed, replicates, options or Options())
    return run(_CrossTraining(first, arms, recipe or arms[0].recipe), Path(out), jobs)


def _from_one_start(model: nn.Module | ModelSpec | str) -> nn.Module | ModelSpec:
    spec = as_model(model)
    if isinstance(spec, ModelSpec) and spec.init is None and spec.checkpoint is None:
        return replace(spec, init=DEFAULT_INIT)
    return spec


@dataclass(frozen=True)
class _MaskTest:
    """One mask's tests in one replicate, with the tickets of its two searches."""

    replicate: int
    mask: str
    tickets: tuple[str, str]


@dataclass(frozen=True)
class _CrossTraining(Experiment[Request, OverlapResult]):
    """`request`: the first arm's search; `recipe`: how weights are trained under the masks."""

    result = OverlapResult

    arms: tuple[Arm, Arm]
    recipe: Recipe

    @property
    def names(self) -> dict[str, str]:
        """Masks -> what they are called."""
        first, second = (arm.name for arm in self.arms)
        return dict(zip(MASKS, ("dense", first, second, f"random as {first}", f"random as {second}"), strict=True))

    def label(self, splits: Splits) -> str:
        return f"overlap-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        request = self.request
        return {
            "study": "overlap",
            "model": describe_model(request.model),
            "data": describe_data(request.data, splits),
            "task": splits.task.identity,
            "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in self.arms],
            "recipe": as_plain(self.recipe),
            "code": code_of(self.recipe),
            "seed": request.seed,
            "replicates": request.replicates,
        }

    def check(self, work: Workspace) -> None:
        """Each search's own mistakes, and what keeps the two from being compared."""
        check_same_start(self.arms, self.request, work)

    def compute(self, work: Workspace) -> OverlapResult:
        replicates = range(self.request.replicates)
        searched: dict[str, list[LevelResult]] = {mask: [] for mask in SEARCHED}
        tested: dict[str, list[MaskTrial]] = {mask: [] for mask in MASKS}
        searches = [(index, mask) for index in replicates for mask in SEARCHED]
        for (_, mask), level in work.map(self.search, searches, "searches"):
            searched[mask].append(level)
        tickets = [(first.ticket or "", second.ticket or "") for first, second in zip(*searched.values(), strict=True)]
        tests = [_MaskTest(index, mask, tickets[index]) for index in replicates for mask in MASKS]
        for test, level in work.map(self.test, tests, "masks"):
            tested[test.mask].append(level)
        model = self.request.model
        architecture = {"model": model} if isinstance(model, nn.Module) else {"trusted": (model.name,)}
        pairs = [
            compare_tickets(
                *(Ticket.load(work.folder / (level.ticket or ""), max_weights=UNLIMITED) for level in levels),
                **architecture,
            )
            for levels in zip(tested["first"], tested["second"], strict=True)
        ]
        return self._result(work.splits, pairs, searched, tested)

    def search(self, work: Workspace, job: tuple[int, str]) -> LevelResult:
        """The last level of one search, given by replicate and mask; paths are relative to the run's directory."""
        replicate, arm = job[0], self.arms[SEARCHED.index(job[1])]
        return search_arm(arm, self.request, work, replicate)[-1].result

    def test(self, work: Workspace, test: _MaskTest) -> MaskTrial:
        """One mask on the shared weights: as they are (`untrained`), and trained under it."""
        name = f"exchange/replicate-{test.replicate}/{test.mask}"
        stage = Stage(work.folder / name)
        done = recovered(MaskTrial, stage)
        if done is not None:
            return done
        request, recipe = self.request, self.recipe
        seed = replicate_seed(request.seed, test.replicate)
        start = start_from(request.model, work.splits, seed=seed, method=request.method)
        mask = _mask(test, work.folder, seed)
        return mask_trial(
            training_setup(work, recipe, request.options),
            start,
            mask,
            stage,
            name,
            held=test.mask != "dense",
            seed=derive(seed, "exchange"),
            label=f"{self.names[test.mask]}  {mask.density:6.1%}",
            provenance={"study": "overlap", "mask": test.mask, "recipe": as_plain(recipe), "versions": versions()},
        )

    def _result(
        self,
        splits: Splits,
        pairs: Sequence[PairOverlap[float | None]],
        searched: Mapping[str, Sequence[LevelResult]],
        tested: Mapping[str, Sequence[MaskTrial]],
    ) -> OverlapResult:
        request, count, names = self.request, len(pairs), self.names
        shared = over_replicates(pairs)
        norms = any(
            name.endswith("running_mean") for name, _ in network_of(self.arms[0], self.request, splits).named_buffers()
        )
        return OverlapResult(
            **study_fields(request, splits),
            names=(self.arms[0].name, self.arms[1].name),
            methods=(self.arms[0].method.name, self.arms[1].method.name),
            recipe=as_plain(self.recipe),
            parameters=parameters(request, splits, tested["first"][0].total),
            layers=shared.layers,
            whole=shared.whole,
            same_origin=shared.same_origin,
            accuracy=tuple(_accuracy(names[mask], levels, searched.get(mask)) for mask, levels in tested.items()),
            differences=tuple(_difference(names, tested, of, against) for of, against in DIFFERENCES),
            sentence=_sentence([arm.name for arm in self.arms], shared.whole),
            intervals=intervals_in_words(count, ", differences paired by replicate"),
            note=NORMS if norms else "",
        )


def _mask(test: _MaskTest, directory: Path, seed: int) -> Mask:
    first, second = (Ticket.load(directory / file, max_weights=UNLIMITED) for file in test.tickets)
    if test.mask == "dense":
        return Mask.full(first.mask)
    ticket = first if test.mask.endswith("first") else second
    return random_mask(ticket, derive(seed, "exchange", test.mask)) if test.mask.startswith("random") else ticket.mask


def _accuracy(name: str, tested: Sequence[MaskTrial], searched: Sequence[LevelResult] | None) -> MaskResult:
    """One mask's figures over the replicates."""
    return MaskResult(
        mask=name,
        density=fmean(level.density for level in tested),
        untrained=figure([level.untrained for level in tested]),
        trained=figure([level.test_accuracy for level in tested]),
        searched=None if searched is None else figure([level.test_accuracy for level in searched]),
        metrics=tuple(level.metrics for level in tested),
        tickets=tuple(level.ticket or "" for level in tested),
    )


def _difference(
    names: Mapping[str, str], tested: Mapping[str, Sequence[MaskTrial]], of: str, against: str
) -> MaskDifference:
    pairs = list(zip(tested[of], tested[against], strict=True))
    trained = [(one.test_accuracy or 0.0) - (other.test_accuracy or 0.0) for one, other in pairs]
    return MaskDifference(
        of=names[of],
        against=names[against],
        untrained=figure([one.untrained - other.untrained for one, other in pairs]),
        trained=figure(trained),
    )


def _sentence(names: Sequence[str], total: SharedLayer[Figure]) -> str:
    """How much the masks share, against chance; no claim where the interval holds 1 or there is none."""
    ratio, sizes = total.ratio, total.ratio_same_sizes
    if ratio.mean is None:
        return f"{names[0]} and {names[1]} cannot share a weight: one of them keeps none."
    text = (
        f"{names[0]} and {names[1]} share {_RATIO.bare(ratio.mean)} times as many weights as random masks of the same "
        f"layer densities would{_claim(ratio)}"
    )
    if sizes.mean is None:
        return f"{text}."
    more = _RATIO.bare(sizes.mean)
    return f"{text}, and {more} times as many as ones that favour large weights alike{_claim(sizes)}."


def _claim(ratio: Figure) -> str:
    if ratio.interval is None:
        return ""
    low, high = ratio.interval
    verdict = (
        "more than chance" if low > 1 else "less than chance" if high < 1 else "no significant difference from chance"
    )
    return f" ({_RATIO.ends(low, high)}: {verdict})"
