"""The study of masks at initialisation: made, measured, trained, and what their statistics say of their accuracy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.levels.context import contexts_untrained
from tombola.levels.foresight import shuffled, untrained_mask
from tombola.levels.search import Search
from tombola.mask import Mask
from tombola.methods.at_init import AtInit
from tombola.models.spec import ModelSpec
from tombola.parameters import prunable
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.landscape import DENSITY, Correlation, LandscapeResult, MaskPoint, MaskReading
from tombola.results.statistics import figure
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive, generator
from tombola.runs.stage import Stage
from tombola.runs.versions import versions
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, replicate_seed, search_replicate, validate
from tombola.search.origin import start_from
from tombola.search.request import Request, as_data, as_model, name_of_model
from tombola.select.patterns import parse_pattern
from tombola.study.landscape.correlate import Numbers, rank
from tombola.study.landscape.plan import TICKET, Landscape, mask_arm, search_arm
from tombola.study.landscape.statistics import STATISTICS, kernels_of, sample_seed, statistics_of
from tombola.study.landscape.words import NOTE, intervals, sentence
from tombola.study.measured import study_config, study_fields, training_setup
from tombola.study.setting import Setting
from tombola.study.trained_mask import save_trained
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import run_trial


@checked
def landscape(
    model: nn.Module | ModelSpec | str,
    data: Any,
    plan: Landscape | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    replicates: int = 1,
    options: Options | None = None,
    jobs: int = 1,
) -> LandscapeResult:
    """Measure many masks of one network at its initialisation, train under each, and correlate the two.

    Tickets are the levels of a pruning search; at their densities every criterion makes its mask of the untrained
    network; each mask has a layer-shuffled control. All are trained from the same weights in the same data order.

    Args:
        model: as in `find`.
        data: as in `find`.
        plan: which masks, and how they are measured; the defaults if None.
        recipe: a whole one, or fields that differ from the preset of imp for this network and data.
        replicates: other initialisations; correlations are taken in each.
        jobs: processes that share searches and masks out (model and data given by name).

    Returns:
        `masks` with statistics and accuracy, `correlations` of every statistic, a `sentence`, and the `run`.

    Raises:
        TombolaError: the search or a criterion cannot work here; raised before anything is trained.
    """
    plan, spec = plan or Landscape(), as_model(model)
    source = as_data(data, model)
    named = spec if isinstance(spec, ModelSpec) else ModelSpec(name_of_model(spec))
    setting = Setting(named, source, recipe or {}, plan)  # type: ignore[arg-type]
    arm = search_arm(setting)
    makers = tuple((name, mask_arm(setting, name, plan.density).method) for name in plan.criteria)
    request = Request(spec, source, arm.method, arm.recipe, seed, replicates, options or Options())
    return run(_Landscape(request, plan, makers), Path(out), jobs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Point:
    """One mask of one replicate: of imp or a criterion, at the density of a round; `ticket`: that round's file."""

    replicate: int
    source: str
    shuffled: bool
    level: int
    ticket: str

    @property
    def name(self) -> str:
        """That of its stage."""
        return f"{self.source}{'-shuffled' if self.shuffled else ''}-{self.level:02d}"


@dataclass(frozen=True)
class _Landscape(Experiment[Request, LandscapeResult]):
    """`makers`: criteria with the methods that make their masks, at the lowest density."""

    result = LandscapeResult

    plan: Landscape
    makers: tuple[tuple[str, AtInit], ...]

    def label(self, splits: Splits) -> str:
        return f"landscape-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        return study_config("landscape", self.request, splits, self.plan)

    def check(self, work: Workspace) -> None:
        """The search's own mistakes and the criteria's; what is measured, once on a full mask."""
        if work.splits.test is None:
            raise TombolaError("the data has no test split, which the masks are judged on; give data with one")
        validate(self.request, work.splits, work.progress, work.starts)
        for name, method in self.makers:
            try:
                validate(replace(self.request, method=method), work.splits, work.progress)
            except TombolaError as error:
                raise TombolaError(f"criterion {name}: {error}") from None
        search = self._search(work, 0)
        self._measure(search, Mask.full(prunable(search.network(), *self._patterns)), 0, probes=1)

    @property
    def _patterns(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.request.method.include, self.request.method.exclude

    def _search(self, work: Workspace, replicate: int) -> Search:
        request = self.request
        seed = replicate_seed(request.seed, replicate)
        start = start_from(request.model, work.splits, seed=seed, method=request.method)
        setup = training_setup(work, request.recipe, request.options)
        provenance = {"study": "landscape", "recipe": as_plain(request.recipe), "versions": versions()}
        return Search(setup, start.origin, seed, provenance, start.architecture, start.trusted)

    def compute(self, work: Workspace) -> LandscapeResult:
        points: list[_Point] = []
        sources = (TICKET, *self.plan.criteria)
        for replicate, levels in work.map(self.tickets, range(self.request.replicates), "searches"):
            points += [
                _Point(replicate, source, control, level.level, level.ticket or "")
                for level in levels[1:]
                for source in sources
                for control in (False, True)
            ]
        found = list(work.map(self.point, points, "masks"))
        return self._result(work.splits, found)

    def tickets(self, work: Workspace, replicate: int) -> list[LevelResult]:
        """The levels of one search."""
        return [level.result for level in search_replicate(self.request, work, replicate)]

    def point(self, work: Workspace, point: _Point) -> tuple[MaskReading, LevelResult]:
        """One mask: its statistics before training, and the network trained under it."""
        name = f"replicate-{point.replicate}/{point.name}"
        reading_stage = Stage(work.folder / "readings" / f"{point.replicate}-{point.name}")
        stage = Stage(work.folder / name)
        reading, trained = recovered(MaskReading, reading_stage), recovered(LevelResult, stage)
        if reading is not None and trained is not None:
            return reading, trained
        search = self._search(work, point.replicate)
        mask = self._mask(work, search, point)
        if reading is None:
            reading = MaskReading(statistics=self._measure(search, mask, point.level))
            reading_stage.finish(reading.as_dict())
        if trained is None:
            trained = _trained(search, mask, point.level, name, stage)
        return reading, trained

    def _mask(self, work: Workspace, search: Search, point: _Point) -> Mask:
        ticket = Ticket.load(work.folder / point.ticket, max_weights=UNLIMITED)
        mask, pattern = ticket.mask, "element"
        if point.source == TICKET:
            pattern = getattr(self.request.method, "pattern", pattern)
        else:
            method = replace(dict(self.makers)[point.source], density=mask.density)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an empty layer is a finding here
                mask = untrained_mask(search, method.pruning()).mask
        if not point.shuffled:
            return mask
        draws = generator(search.seed, "shuffled", point.source, point.level)
        whole = Mask.full({name: kept for name, kept in mask.items()})
        return shuffled(mask, whole, parse_pattern(pattern), draws).mask

    def _measure(self, search: Search, mask: Mask, number: int, probes: int | None = None) -> dict[str, float | None]:
        """The statistics of a mask on the search's network; the sample is that of the first training batches."""
        context = contexts_untrained(search)(mask, number).over(self.plan.batches)
        found = statistics_of(
            search.network(),
            mask,
            context.batches(),
            search.setup.splits.task.loss,
            seed=sample_seed(search.seed),
            probes=probes or self.plan.probes,
        )
        return {**found, **kernels_of(context)}

    def _result(
        self, splits: Splits, found: Sequence[tuple[_Point, tuple[MaskReading, LevelResult]]]
    ) -> LandscapeResult:
        request, count = self.request, self.request.replicates
        grouped: dict[tuple[int, str, bool], list[tuple[MaskReading, LevelResult]]] = {}
        for point, made in found:
            grouped.setdefault((point.level, point.source, point.shuffled), []).append(made)
        masks = tuple(_joined(level, source, control, made) for (level, source, control), made in grouped.items())
        correlations = tuple(
            _correlation(name, masks, request, self.plan, splits.task.higher_is_better)
            for name in (DENSITY, *STATISTICS)
        )
        network = start_from(request.model, splits, seed=request.seed, method=request.method).network()
        total = Mask.full(prunable(network, *self._patterns)).total
        return LandscapeResult(
            **study_fields(request, splits),
            options=as_plain(self.plan),
            recipe=as_plain(request.recipe),
            parameters=parameters(request, splits, total),
            examples=min(self.plan.batches * request.recipe.batch_size, len(splits.train)),
            masks=masks,
            correlations=correlations,
            sentence=sentence(masks, correlations, splits.task.metric_name),
            intervals=intervals(self.plan.resamples, count),
            note=NOTE,
        )


def _trained(search: Search, mask: Mask, level: int, name: str, stage: Stage) -> LevelResult:
    """The network trained under a mask from the search's weights, as a stage that keeps it as a ticket."""
    trial = run_trial(
        search.setup,
        search.network(),
        seed=derive(search.seed, "landscape"),
        label=f"{name}  {mask.density:6.1%}",
        mask=mask,
        stage=stage,
    )
    result = save_trained(
        stage,
        trial,
        mask,
        name,
        level=level,
        origin=search.origin,
        provenance=search.provenance,
        model=search.architecture,
        trusted=search.trusted,
    )
    stage.finish(result.as_dict())
    return result


def _joined(level: int, source: str, control: bool, made: Sequence[tuple[MaskReading, LevelResult]]) -> MaskPoint:
    readings = [reading.statistics for reading, _ in made]
    trained = [result for _, result in made]
    return MaskPoint(
        source=source,
        shuffled=control,
        level=level,
        density=sum(result.density for result in trained) / len(trained),
        statistics={name: figure([reading[name] for reading in readings]) for name in STATISTICS},
        accuracy=figure([result.test_accuracy for result in trained]),
        tickets=tuple(result.ticket or "" for result in trained),
    )


def _values(masks: Sequence[MaskPoint], name: str, replicate: int) -> Numbers:
    """A statistic, the density, or the accuracy ("") of every mask in one replicate."""

    def value(mask: MaskPoint) -> float | None:
        if name == DENSITY:
            return mask.density
        return (mask.statistics[name] if name else mask.accuracy).values[replicate]

    found = [value(mask) for mask in masks]
    return np.array([np.nan if one is None else one for one in found], dtype=np.float64)


def _correlation(
    name: str, masks: Sequence[MaskPoint], request: Request, plan: Landscape, higher_is_better: bool
) -> Correlation:
    sign = 1.0 if higher_is_better else -1.0
    x = [_values(masks, name, index) for index in range(request.replicates)]
    y = [sign * _values(masks, "", index) for index in range(request.replicates)]
    levels: dict[int, list[int]] = {}
    for index, mask in enumerate(masks):
        levels.setdefault(mask.level, []).append(index)
    places = {(mask.level, mask.source, mask.shuffled): index for index, mask in enumerate(masks)}
    pairs = [(index, places[level, source, True]) for (level, source, control), index in places.items() if not control]
    kept, control = (np.array(side) for side in zip(*pairs, strict=True))
    rated = partial(rank, seed=derive(request.seed, "correlation", name), resamples=plan.resamples)
    return Correlation(
        statistic=name,
        overall=rated([range(len(masks))], x, y),
        within_density=rated(list(levels.values()), x, y),
        against_shuffled=rated(
            [range(len(pairs))], [v[kept] - v[control] for v in x], [v[kept] - v[control] for v in y]
        ),
    )
