"""The partial result of an unfinished run, from its finished stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tombola.formats import plural
from tombola.report.aggregate import read_log
from tombola.results.codec import typed
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.cost import cost_of
from tombola.results.double_descent import Axis, DescentFit, DescentResult, over_replicates
from tombola.results.measurement import Measurement
from tombola.results.record import Figure
from tombola.results.run import RunRecord
from tombola.results.search import Replicate, SearchResult
from tombola.results.statistics import FEWEST_REPLICATES, interval
from tombola.results.trial import LevelResult, TrialResult
from tombola.results.verification import SEEDS, ArmResult, ExampleSet, SeedsAlone, VerificationResult
from tombola.runs.stage import RESULT, Stage
from tombola.study.setting import folder_of

RESUME = "The run has not finished: this is how far it got; tombola runs says how to resume it."


def partial_result(
    path: Path, run: RunRecord
) -> SearchResult | ComparisonResult | VerificationResult | Measurement | None:
    """The result of the finished stages under `path`, as `result.json` would hold it; None if there are none.

    Stages of a search are `replicate-R/level-LL` and `replicate-R/ARM-LL` (controls), those of a study lie in a
    folder for each arm, those of a verification are `ARM-R`.
    """
    if run.kind == "verify":
        return _verification(path, run.config)
    if run.config.get("study") == "double-descent":
        return _descent(path, run.config)
    return _study(path, run.config) if run.config.get("arms") else _search(path, run.config)


def begun_stages(path: Path) -> list[str]:
    """The stages that have begun and not finished, in words."""
    notes = []
    for log in sorted(path.rglob("metrics.csv")):
        if not (log.parent / "result.json").is_file():
            name, last_step = log.parent.relative_to(path).as_posix(), max(read_log(log, "step"), default=0)
            notes.append(f"{name} has begun and not finished: its log reaches iteration {last_step:,}.")
    return notes


def _search(path: Path, config: Mapping[str, Any]) -> SearchResult | None:
    replicates = []
    for folder in _numbered(path, "replicate"):
        arms: dict[str, list[LevelResult]] = {}
        for stage, content in _stages(folder):
            name = stage.name.rpartition("-")[0]
            level = typed(LevelResult, content, stage / RESULT)
            arms.setdefault("ticket" if name == "level" else name, []).append(level)
        if "ticket" in arms:
            number = int(folder.name.rpartition("-")[2])
            ordered = {name: tuple(levels) for name, levels in arms.items()}
            replicates.append(Replicate(replicate=number, seed=None, ticket=None, arms=ordered))
    if not replicates:
        return None
    return SearchResult(
        **_about(config),
        method=_name(config, "method"),
        input_shape=None,
        recipe=None,
        parameters=None,
        replicates=tuple(replicates),
    )


def _study(path: Path, config: Mapping[str, Any]) -> ComparisonResult | None:
    arms = []
    for about in config["arms"]:
        name = str(about.get("name", "?")) if isinstance(about, Mapping) else "?"
        folder = folder_of(name)
        replicates = [
            tuple(_under(folder, typed(LevelResult, content, stage / RESULT)) for stage, content in _stages(place))
            for place in _numbered(path / folder, "replicate")
        ]
        if any(replicates):
            arms.append(_arm(name, _name(about, "method"), [levels for levels in replicates if levels]))
    if not arms:
        return None
    done = ", ".join(f"{arm.name} {plural(len(arm.replicates), 'replicate')}" for arm in arms)
    return ComparisonResult(
        **_about(config),
        study=str(config.get("study", "study")),
        input_shape=None,
        replicates=max(len(arm.replicates) for arm in arms),
        seeds=(),
        recipe=None,
        parameters=None,
        arms=tuple(arms),
        comparisons=(),
        intervals="",
        note=f"Finished so far: {done}.",
    )


def _arm(name: str, method: str, replicates: Sequence[tuple[LevelResult, ...]]) -> ComparedArm:
    """An arm's figures, from the last finished level of each replicate."""
    last = [levels[-1] for levels in replicates]

    def figure(values: Sequence[float | None] = ()) -> Figure:
        return Figure(mean=None, interval=None, values=tuple(values))

    return ComparedArm(
        name=name,
        family=name,
        method=method,
        options=None,
        density=fmean(level.density for level in last),
        prunable=None,
        plot_density=None,
        recipe=None,
        replicates=tuple(replicates),
        origins=(),
        test_accuracy=figure([level.test_accuracy for level in last]),
        val_accuracy=figure([level.val_accuracy for level in last]),
        train_accuracy_eval=figure([level.train_accuracy_eval for level in last]),
        train_accuracy=figure([level.train_accuracy for level in last]),
        gap=figure(),
        shift=figure(),
        bits_per_weight=figure([level.bits_per_weight for level in last]),
    )


def _verification(path: Path, config: Mapping[str, Any]) -> VerificationResult | None:
    arms: dict[str, list[tuple[str, TrialResult]]] = {}
    for stage, content in _stages(path):
        name, _, number = stage.name.rpartition("-")
        if name and number.isdigit():
            arms.setdefault(name, []).append((stage.name, typed(TrialResult, content, stage / RESULT)))
    if not arms:
        return None
    count, wanted = sum(map(len, arms.values())), config.get("replicates")
    of = f" of {4 * wanted}" if isinstance(wanted, int) else ""
    return VerificationResult(
        **_about(config),
        method=None,
        density=None,
        kept=None,
        total=None,
        barred_kept=0,
        parameters=None,
        recipe=None,
        replicates=None,
        margin=None,
        margin_in_words="",
        test_set=ExampleSet(examples=None, resolution=None),
        arms={name: _trained(trials) for name, trials in arms.items()},
        comparisons={},
        speed=None,
        wins=None,
        sentence=f"No verdict yet: {plural(count, 'training')}{of} finished.",
    )


def _trained(trials: Sequence[tuple[str, TrialResult]]) -> ArmResult:
    results = [trial for _, trial in trials]
    known = [trial.test_accuracy for trial in results if trial.test_accuracy is not None]
    bounds = interval(known) if len(known) >= FEWEST_REPLICATES else None
    return ArmResult(
        test_accuracy=tuple(trial.test_accuracy for trial in results),
        mean=fmean(known) if known else None,
        interval=bounds,
        covers=SEEDS,
        seeds_alone=SeedsAlone(interval=bounds),
        early_stop_iteration=tuple(trial.early_stop_iteration for trial in results),
        early_stop_observed=tuple(trial.early_stop_observed for trial in results),
        iterations_to_dense_loss=(),
        metrics=tuple(f"{name}/metrics.csv" for name, _ in trials),
        costs=tuple(map(cost_of, results)),
    )


def _descent(path: Path, config: Mapping[str, Any]) -> DescentResult | None:
    """The points so far of a curve: stages `curve-R/point-III`."""
    folders = _numbered(path, "curve")
    fits = [typed(DescentFit, content, stage / RESULT) for folder in folders for stage, content in _stages(folder)]
    if not fits:
        return None
    axes: tuple[Axis, ...] = ("density", "features", "parameters")
    return DescentResult(
        curve_kind=_name(config, "kind"),
        axis=next((axis for axis in axes if getattr(fits[0], axis) is not None), "parameters"),
        model=None,
        data=_name(config, "data"),
        loss="loss",
        examples=0,
        outputs=0,
        replicates=len(folders),
        seeds=(),
        settings={},
        curve=over_replicates(fits),
        peak=None,
        peak_of="test_loss",
        threshold=None,
        sentence=f"{plural(len(fits), 'model')} fitted so far.",
    )


def _numbered(path: Path, name: str) -> list[Path]:
    """Folders `name-0`, `name-1`, ... in their order."""
    folders = [folder for folder in path.glob(f"{name}-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _stages(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders and results of the finished stages in a folder."""
    for stage in sorted(folder.iterdir()) if folder.is_dir() else ():
        content = Stage(stage).result() if stage.is_dir() else None
        if content is not None:
            yield stage, content


def _under(folder: str, level: LevelResult) -> LevelResult:
    """A level whose files lie in a folder of the run."""
    return level.replace(metrics=f"{folder}/{level.metrics}", ticket=level.ticket and f"{folder}/{level.ticket}")


def _name(config: object, part: str) -> str:
    described = config.get(part) if isinstance(config, Mapping) else None
    return str(described.get("name", "?")) if isinstance(described, Mapping) else "?"


def _about(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields common to all results: model, data, the metric and its direction."""
    task = config.get("task")
    named = task if isinstance(task, Mapping) else {}
    return {
        "model": _name(config, "model"),
        "data": _name(config, "data"),
        "metric": str(named.get("metric_name", "accuracy")),
        "higher_is_better": bool(named.get("higher_is_better", True)),
    }
