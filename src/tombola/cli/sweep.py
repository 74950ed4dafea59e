"""sweep: many searches from one file, each as `tombola find` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml
from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import MACHINE
from tombola.cli.values import load_file
from tombola.cli.verb import Verb
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import Unit, plural, setting_in_words
from tombola.results.codec import typed
from tombola.results.sweep import SweepResult, SweptRun
from tombola.runs.atomic import write_text
from tombola.study.sweep.engines import EngineOptions
from tombola.study.sweep.settings import Sweep, read_sweep
from tombola.train.options import Options

if TYPE_CHECKING:
    from tombola.study.sweep.engine import Ended
    from tombola.study.sweep.plan import Planned


Given: TypeAlias = Mapping[str, Any] | str | Path
"""A sweep: its file, or what stands there."""


ENGINE = Group("engine", EngineOptions)


def verbs() -> list[Verb]:
    """`sweep`."""
    return [
        Verb(
            ("sweep",),
            "Search with every setting of a grid and every seed: one run each, finished ones are skipped.",
            _add,
            _run,
        )
    ]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=str,
        help="YAML: fields of a search (method, model, data, recipe, or any option of find), "
        "grid: {density: [0.1, 0.3], recipe.lr: [..]} or a list of settings, and seeds: 3 or a list",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--dry_run",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="name the runs, which are finished and how many there are, and train nothing",
    )
    run.add_argument("--out", type=str, default="runs", help="folder in which every run gets its own directory")
    ENGINE.add(parser)
    MACHINE.add(parser)


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    machine, engine = Options(**MACHINE.read(given)), EngineOptions(**ENGINE.read(given))
    read, out = _read(given["file"]), Path(given["out"])
    if given["dry_run"]:
        return (
            _show_search(screen, read, machine)
            if read.ranges
            else _show_plan(screen, _planned(read, out, machine), out)
        )

    def told(one: Planned, how: Ended) -> None:
        named = f"{setting_in_words(one.search.setting)} ({one.directory.name})"
        stacked = "" if how.stacked is None else f": {how.stacked.in_words}"
        screen.line(f"failed  {named}: {how.error}" if how.error else f"done    {named}{stacked}")

    result = _sweep(read, out, engine, machine, told)
    show_sweep(screen, result, read)
    if result.failed:
        screen.finish(result.as_dict())
        raise TombolaError(failures(result))
    return result.as_dict()


def _read(given: Given) -> Sweep:
    content = given if isinstance(given, Mapping) else load_file(Path(given))
    return read_sweep(content, "the sweep" if isinstance(given, Mapping) else str(given))


def _planned(read: Sweep, out: Path, machine: Options) -> list[Planned]:
    with loading(machine.progress):
        from tombola.cli.sweep_settings import searches_of
        from tombola.study.sweep.run import plan_sweep

    return plan_sweep(searches_of(read, machine), out, machine, read.against)


def _sweep(
    read: Sweep,
    out: Path,
    engine: EngineOptions,
    machine: Options,
    told: Callable[[Planned, Ended], None] | None = None,
) -> SweepResult:
    result = (_searched if read.ranges else _crossed)(read, out, engine, machine, told)
    folder = Path(str(result.run))
    for name, text in best_files(read, result).items():
        write_text(folder / name, text)
    _write_files(folder, read.against)
    return result


def _crossed(
    read: Sweep, out: Path, engine: EngineOptions, machine: Options, told: Callable[[Planned, Ended], None] | None
) -> SweepResult:
    """Every setting that the file lists."""
    planned = _planned(read, out, machine)
    from tombola.study.sweep.engine import NOBODY
    from tombola.study.sweep.run import carry_out_runs, finish_sweep

    carrier = engine.made(machine)
    with carrier.session() if not all(one.finished for one in planned) else nullcontext(NOBODY) as crew:
        ended = carry_out_runs(planned, crew, out, machine, told)
    return finish_sweep(planned, ended, out, machine, read.against)


def _searched(
    read: Sweep, out: Path, engine: EngineOptions, machine: Options, told: Callable[[Planned, Ended], None] | None
) -> SweepResult:
    """Every setting with the values that are proposed for it."""
    with loading(machine.progress):
        from tombola.cli.sweep_settings import tunables_of
        from tombola.study.sweep.run import finish_sweep
        from tombola.study.sweep.tuning import carry_out_trials, imported

    tunables = tunables_of(read, machine)
    imported()
    with engine.made(machine).session() as crew:
        done = carry_out_trials(tunables, read.trials, crew, out, machine, told)
    return finish_sweep(done.planned, done.ended, out, machine, read.against, done.tuned)


def best_files(read: Sweep, result: SweepResult) -> dict[str, str]:
    """Of a sweep that searches numbers, a sweep of every setting's best values, by the name of its file."""
    from tombola.cli.sweep_settings import alone

    groups = read.groups() if result.tuned else []
    names = ["best.yaml"] if len(groups) == 1 else [f"best-{number}.yaml" for number in range(1, len(groups) + 1)]
    made = (alone(read, one).runnable(one, tuned.values) for one, tuned in zip(groups, result.tuned, strict=True))
    return {name: yaml.safe_dump(one, sort_keys=False) for name, one in zip(names, made, strict=True)}


def _write_files(folder: Path, against: Mapping[str, Any] | None) -> None:
    """The sweep's table as CSV, and as Parquet where that can be written, and its page."""
    from tombola.report.page import write_report
    from tombola.results.table import results

    rows = results(folder)
    rows.write_csv(folder / "results.csv")
    if all(find_spec(name) for name in ("pandas", "pyarrow")):
        rows.write_parquet(folder / "results.parquet")
    try:
        write_report([folder], folder, against)
    except TombolaError:  # no run of the setting to compare with is finished
        write_report([folder], folder)


@checked
def sweep(
    settings: Mapping[str, Any] | str | Path,
    *,
    out: str | Path = "runs",
    jobs: int | None = 1,
    engine: EngineOptions | None = None,
    options: Options | None = None,
    dry_run: bool = False,
) -> SweepResult:
    """Search with every setting of a grid and every seed, each in a run directory as `find` makes it.

    Finished runs are skipped, and one that was killed goes on. One that fails does not stop the others: see `failed` of
    the result.

    Args:
        settings: a YAML file or a mapping of the same: fields of a search by dotted name (method, model, data, recipe,
            or any option of `tombola find`), `grid`: lists to cross, or a list of settings, `seeds`, and `search`:
            ranges of numbers, whose best values are searched by the validation metric (see `tuned` of the result).
        out: folder in which every run, and the sweep, get their directories.
        jobs: processes that share the threads; None: one for every thread.
        engine: what carries out the runs, instead of `jobs` processes, e.g. `EngineOptions("ray", address="auto")`.
        options: device and display.
        dry_run: name the runs, and count those that are finished (`found`); nothing is trained or written. Runs of a
            `search` are not known before.

    Raises:
        TombolaError: a field is unknown or has a wrong value; nothing has been trained or written then.

    >>> import tempfile
    >>> settings = {"method": "imp", "model": "mlp", "rounds": 1, "recipe": {"length": "2it"},
    ...             "grid": {"density": [0.5, 0.2]}, "seeds": 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = tb.sweep(settings, out=folder, options=tb.Options(progress=False))
    >>> [search.name for search in found.searches]
    ['density 0.5, seed 0', 'density 0.5, seed 1', 'density 0.2, seed 0', 'density 0.2, seed 1']
    """
    machine = options or Options()
    if engine is not None and jobs != 1:
        raise TombolaError(f"jobs is {jobs}, and engine is given; give jobs to EngineOptions")
    read = _read(settings)
    if dry_run:
        return _dry_run(read, Path(out), machine)
    return _sweep(read, Path(out), engine or EngineOptions(jobs=jobs), machine)


def _dry_run(read: Sweep, out: Path, machine: Options) -> SweepResult:
    """What a sweep would carry out, as far as that is known."""
    if read.ranges:
        from tombola.cli.sweep_settings import tunables_of

        tunables_of(read, machine)
        return SweepResult(searches=())
    planned = _planned(read, out, machine)
    searches = tuple(SweptRun(setting=dict(one.search.setting), run=one.directory.name) for one in planned)
    return SweepResult(searches=searches, trained=0, found=len({one.directory for one in planned if one.finished}))


def _show_plan(screen: Screen, planned: Sequence[Planned], out: Path) -> Mapping[str, Any]:
    rows = [(setting_in_words(one.search.setting), one.directory.name, _state(one)) for one in planned]
    screen.table(("setting", "run", "state"), rows, left=(0, 1, 2))
    new = {one.directory for one in planned if not one.finished}
    every = {one.directory for one in planned}
    screen.line(f"{plural(len(every), 'run')} in {out}, {len(every) - len(new)} of them finished, {len(new)} to do")
    return {
        "runs": [
            {"setting": dict(one.search.setting), "run": one.directory.name, "state": _state(one)} for one in planned
        ],
        "count": len(every),
        "finished": len(every) - len(new),
    }


def _show_search(screen: Screen, read: Sweep, machine: Options) -> Mapping[str, Any]:
    from tombola.cli.sweep_settings import tunables_of

    groups, tunables = read.groups(), tunables_of(read, machine)
    count = read.trials * sum(map(len, groups))
    ranges = {name: str(one) for name, one in read.ranges.items()}
    rows = [(setting_in_words(one.setting), str(len(group))) for one, group in zip(tunables, groups, strict=True)]
    screen.table(("setting", "seeds"), rows)
    for name, text in ranges.items():
        screen.line(f"{name}: {text}")
    screen.line(f"{read.trials} trials of every setting: at most {plural(count, 'run')}, proposed one after the other")
    return {"runs": [], "settings": [dict(one.setting) for one in tunables], "ranges": ranges, "count": count}


def _state(one: Planned) -> str:
    return "finished" if one.finished else "can be resumed" if one.directory.exists() else "new"


def sweep_line(result: Mapping[str, Any], directory: Path) -> str:
    """A finished sweep in a few words; nothing of one that this version does not read."""
    try:
        read = typed(SweepResult, result, directory / "result.json")
    except TombolaError:
        return ""
    failed = f", {len(read.failed)} failed" if read.failed else ""
    return f"{plural(len(read.settings), 'setting')}, {plural(len(read.runs), 'run')}{failed}"


def show_sweep(screen: Screen, result: SweepResult, read: Sweep) -> None:
    """The settings with what they reached, what was done, and where it lies."""
    from tombola.report.collection_page import settings_tables

    screen.tables(settings_tables(result.settings))
    for tuned, (name, text) in zip(result.tuned, best_files(read, result).items(), strict=True):
        reached = Unit(tuned.metric).show(tuned.val_accuracy)
        tried = f"{plural(tuned.trials, 'trial')}{f', {tuned.failed} of them failed' if tuned.failed else ''}"
        screen.line(f"best by validation {tuned.metric} ({reached}, {tried}): {tuned.name}; {result.run}/{name}:")
        screen.line(text)
    screen.line(
        f"{plural(len(result.runs), 'run')}: {result.trained} done now, {result.found} finished before, "
        f"{len(result.failed)} failed"
    )
    screen.run(result.run, None)
    screen.line(f"report  {result.run}/report.html, and the table as results.csv beside it")


def failures(result: SweepResult) -> str:
    """The line about the runs that failed."""
    shown = [f"{search.name}: {search.error}" for search in result.failed[:3]]
    more = f"; and {len(result.failed) - 3} more" if len(result.failed) > 3 else ""
    failed = f"{len(result.failed)} of {len(result.runs)} runs failed"
    return f"{failed}; the same command does them again: {'; '.join(shown)}{more}"
