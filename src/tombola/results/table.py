"""Every trained network under a folder of runs as one typed row, for tables of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, overload

from msgspec.structs import asdict

from tombola.errors import TombolaError, not_installed
from tombola.fields import checked
from tombola.results.codec import typed
from tombola.results.comparison import ComparisonResult
from tombola.results.connectivity import ConnectivityResult
from tombola.results.double_descent import DescentResult
from tombola.results.initialisations import InitialisationsResult
from tombola.results.landscape import LandscapeResult
from tombola.results.overlap import OverlapResult
from tombola.results.record import Record
from tombola.results.run import RunRecord
from tombola.results.search import TICKET, SearchResult
from tombola.results.settings import as_key, differing, settings_of
from tombola.results.sweep import SweepResult
from tombola.results.trial import LevelResult, TrainingCost, TrialResult
from tombola.results.verification import VerificationResult
from tombola.runs.atomic import write_atomically, write_text
from tombola.runs.integrity import RUN, Damaged, read_record
from tombola.runs.stage import RESULT, Stage


class ResultRow(Record, frozen=True, kw_only=True):
    """One trained network; None for what its run does not say.

    `kind` (find, study or verify) and `seed` are the run's. `arm`: "ticket" is a search's own. `density`: kept / total;
    accuracies are the `metric`, in its own unit; `train_accuracy` is over training examples in evaluation mode.
    `iterations` count from step 0, those before a rewind point included; `seconds`, `flops`, `memory_bytes` and
    `energy_joules` are of what was trained (see `TrainingCost`).
    """

    run: str
    kind: str
    method: str | None
    model: str | None
    data: str | None
    arm: str
    replicate: int
    level: int | None
    density: float | None
    metric: str
    train_accuracy: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    test_accuracy_early_stop: float | None
    early_stop_iteration: int | None
    early_stop_observed: bool
    iterations: int
    seconds: float
    flops: int | None = None
    memory_bytes: int | None = None
    energy_joules: float | None = None
    forward_passes: int | None = None
    seed: int | None = None


class Results(Sequence[ResultRow]):
    """Rows in the order of runs, arms, replicates and levels.

    `settings`: of every run, by its name, those settings in which the runs differ, by dotted names such as recipe.lr.
    """

    def __init__(self, rows: Sequence[ResultRow], settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._rows = tuple(rows)
        self.settings: Mapping[str, Mapping[str, Any]] = settings or {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ResultRow: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> ResultRow | Results:
        return Results(self._rows[index], self.settings) if isinstance(index, slice) else self._rows[index]

    def __repr__(self) -> str:
        return f"Results of {len(self)} trained networks in {len({row.run for row in self})} runs"

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The values by column: every field of a row, then every setting in which the runs differ."""
        rows = [asdict(row) for row in self]
        names = dict.fromkeys(name for own in self.settings.values() for name in own)
        fields = {name: [row[name] for row in rows] for name in ResultRow.__struct_fields__}
        varied = {name: _alike([self.settings.get(row.run, {}).get(name) for row in self]) for name in names}
        return {**fields, **varied}

    def to_pandas(self) -> Any:
        """A pandas DataFrame, a column for every field, and for every setting in which the runs differ.

        Raises:
            TombolaError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise not_installed("pandas", "tombola[pandas]") from None
        return pandas.DataFrame(self.columns)

    def write_csv(self, file: str | Path) -> None:
        """Write the rows as CSV, empty where a value is not known."""
        text = io.StringIO(newline="")
        columns = self.columns
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_text(Path(file), text.getvalue())

    def write_parquet(self, file: str | Path) -> None:
        """Write the rows as Parquet.

        Raises:
            TombolaError: pandas or pyarrow is not installed.
        """
        frame = self.to_pandas()
        try:
            data = frame.to_parquet(None)
        except ImportError:
            raise not_installed("pyarrow", "tombola[pandas]") from None
        with write_atomically(Path(file)) as out:
            out.write(data)


@checked
def results(folder: str | Path) -> Results:
    """Every trained network of the runs in `folder`, unfinished runs included; what is damaged is left out.

    `folder` may be one run as well; of a sweep, its runs are read.

    Raises:
        TombolaError: the folder cannot be read, or a run holds a value that cannot be right.

    Example:
        >>> import tombola as tb
        >>> tb.results("no-runs-here")
        Traceback (most recent call last):
            ...
        tombola.errors.TombolaError: no-runs-here is no folder; name the one that the runs were written to
    """
    parent = Path(folder)
    if not parent.is_dir():
        raise TombolaError(f"{parent} is no folder; name the one that the runs were written to")
    rows: list[ResultRow] = []
    settings: dict[str, dict[str, Any]] = {}
    for run in _runs(parent):
        try:
            record = typed(RunRecord, read_record(run / RUN) or {}, run / RUN)
        except Damaged:
            continue
        seed = record.config.get("seed")
        rows += (row.replace(seed=seed if isinstance(seed, int) else None) for row in _rows(run, record))
        settings[run.name] = settings_of(record.config)
    names = [name for name in differing(list(settings.values())) if name not in _COLUMNS]
    return Results(rows, {run: {name: own[name] for name in names if name in own} for run, own in settings.items()})


_COLUMNS = ("method.name", "model.name", "data.name")
"""Settings that rows have as fields."""


def _runs(parent: Path) -> list[Path]:
    """A folder's runs, one run alone, or those that a sweep names."""
    if not (parent / RUN).is_file():
        return sorted(file.parent for file in parent.glob(f"*/{RUN}"))
    try:
        content = Stage(parent).result() or {}
    except Damaged:
        content = {}
    if content.get("kind") != "sweep":
        return [parent]
    beside = parent.resolve().parent
    names = typed(SweepResult, content, parent / RESULT).runs
    return [beside / name for name in names if (beside / name / RUN).is_file()]


def _alike(values: Sequence[Any]) -> list[Any]:
    """A column's values: numbers as they are, anything else as text, so that all are of one type."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return list(values)
    return [value if value is None or isinstance(value, str) else as_key(value) for value in values]


def _rows(run: Path, record: RunRecord) -> Iterator[ResultRow]:
    content, file = Stage(run).result(), run / RESULT
    kind = None if content is None else content.get("kind")
    if content is None:
        yield from _unfinished(run, record)
    elif kind == "find":
        search = typed(SearchResult, content, file)
        about = {"method": search.method, "model": search.model, "data": search.data}
        for replicate in search.replicates:
            for arm, levels in replicate.arms.items():
                yield from (_row(run, record, arm, replicate.replicate, level, about) for level in levels)
    elif kind == "study":
        study = typed(ComparisonResult, content, file)
        for compared in study.arms:
            about = {"method": compared.method, "model": study.model, "data": study.data}
            for number, levels in enumerate(compared.replicates):
                yield from (_row(run, record, compared.name, number, level, about) for level in levels)
    elif kind == "verify":
        yield from _verified(run, record, typed(VerificationResult, content, file))
    elif kind == "connectivity":
        yield from _connected(run, record, typed(ConnectivityResult, content, file))
    elif kind == "double-descent":
        yield from _descent(run, record, typed(DescentResult, content, file))
    elif kind == "initialisations":
        yield from _initialisations(run, record, typed(InitialisationsResult, content, file))
    elif kind == "landscape":
        yield from _masks(run, record, typed(LandscapeResult, content, file))
    elif kind == "overlap":
        overlap = typed(OverlapResult, content, file)
        about = {"method": None, "model": overlap.model, "data": overlap.data}
        for mask in overlap.accuracy:
            for number, log in enumerate(mask.metrics):
                trial = Stage(run / PurePosixPath(log).parent).result()
                if trial is not None:
                    yield _row(run, record, mask.mask, number, typed(LevelResult, trial, run / log), about)


def _connected(run: Path, record: RunRecord, result: ConnectivityResult) -> Iterator[ResultRow]:
    """Both trainings of every pair, by the step that they part at."""
    about = {"method": result.method, "model": result.model, "data": result.data}
    for pair in result.pairs:
        for number, ends in enumerate(pair.ends):
            for order, ticket in zip("ab", ends, strict=True):
                content = Stage(run / PurePosixPath(ticket).parent).result()
                if content is not None:
                    arm = f"{pair.arm} from {pair.from_step}, order {order}"
                    yield _row(run, record, arm, number, typed(LevelResult, content, run / ticket), about)


def _initialisations(run: Path, record: RunRecord, result: InitialisationsResult) -> Iterator[ResultRow]:
    """What the searches ended with, by scheme, then every mask on other weights, trained."""
    about = {"method": None, "model": result.model, "data": result.data}
    searched = [(f"{one.init}, {one.mask}", one.metrics) for one in result.accuracy]
    tried = [(f"{one.mask} of {one.found} on {one.on}", one.metrics) for one in result.transfer]
    for arm, logs in (*searched, *tried):
        for number, log in enumerate(logs):
            trial = Stage(run / PurePosixPath(log).parent).result()
            if trial is not None:
                yield _row(run, record, arm, number, typed(LevelResult, trial, run / log), about)


def _descent(run: Path, record: RunRecord, result: DescentResult) -> Iterator[ResultRow]:
    """Every model of a curve, numbered along it."""
    for index, point in enumerate(result.curve):
        for number in range(result.replicates):
            train, test = (_right(point.values.get(f"{part}_error", ()), number) for part in ("train", "test"))
            yield ResultRow(
                run=run.name,
                kind=record.kind,
                method=result.curve_kind,
                model=result.model,
                data=result.data,
                arm=point.series or result.curve_kind,
                replicate=number,
                level=index,
                density=point.density,
                metric="accuracy",
                train_accuracy=train,
                val_accuracy=None,
                test_accuracy=test,
                test_accuracy_early_stop=None,
                early_stop_iteration=None,
                early_stop_observed=False,
                iterations=0,
                seconds=0.0,
            )


def _right(errors: Sequence[float | None], replicate: int) -> float | None:
    """The accuracy of a replicate that has an error."""
    error = errors[replicate] if replicate < len(errors) else None
    return None if error is None else 1 - error


def _masks(run: Path, record: RunRecord, result: LandscapeResult) -> Iterator[ResultRow]:
    """Every mask's training."""
    about = {"method": None, "model": result.model, "data": result.data}
    for mask in result.masks:
        for number, ticket in enumerate(mask.tickets):
            content = Stage(run / PurePosixPath(ticket).parent).result()
            if content is not None:
                yield _row(run, record, mask.name, number, typed(LevelResult, content, run / ticket), about)


def _verified(run: Path, record: RunRecord, result: VerificationResult) -> Iterator[ResultRow]:
    about = {"method": result.method, "model": result.model, "data": result.data}
    for name, arm in result.arms.items():
        for number, log in enumerate(arm.metrics):
            content = Stage(run / PurePosixPath(log).parent).result()
            if content is not None:
                trial = typed(TrialResult, content, run / log)
                row = _row(run, record, name, number, trial, about)
                yield row.replace(density=1.0 if name == "dense" else result.density)


def _unfinished(run: Path, record: RunRecord) -> Iterator[ResultRow]:
    """The finished levels of a search or a comparison, whose arms go by the names of their folders."""
    about = {part: _name(record.config, part) for part in ("method", "model", "data")}
    for file in sorted(run.glob(f"**/replicate-*/*/{RESULT}")):
        content = Stage(file.parent).result()
        if content is None:
            continue
        *above, replicate, stage = file.parent.relative_to(run).parts
        own = TICKET if stage.startswith("level-") else stage.rpartition("-")[0]
        number = replicate.rpartition("-")[2]
        if number.isdigit():
            level = typed(LevelResult, content, file)
            yield _row(run, record, "/".join(above) or own, int(number), level, about)


def _row(
    run: Path, record: RunRecord, arm: str, replicate: int, trial: TrialResult, about: Mapping[str, str | None]
) -> ResultRow:
    level = trial if isinstance(trial, LevelResult) else None
    cost = trial.cost or TrainingCost()
    return ResultRow(
        run=run.name,
        kind=record.kind,
        method=about["method"],
        model=about["model"],
        data=about["data"],
        arm=arm,
        replicate=replicate,
        level=None if level is None else level.level,
        density=None if level is None else level.density,
        metric=trial.metric,
        train_accuracy=trial.train_accuracy_eval,
        val_accuracy=trial.val_accuracy,
        test_accuracy=trial.test_accuracy,
        test_accuracy_early_stop=trial.test_accuracy_early_stop,
        early_stop_iteration=trial.early_stop_iteration,
        early_stop_observed=trial.early_stop_observed,
        iterations=trial.steps,
        seconds=trial.seconds,
        flops=cost.flops,
        memory_bytes=cost.memory_bytes,
        energy_joules=cost.energy_joules,
        forward_passes=cost.forward_passes,
    )


def _name(config: Mapping[str, Any], part: str) -> str | None:
    described = config.get(part)
    return str(described["name"]) if isinstance(described, Mapping) and "name" in described else None
