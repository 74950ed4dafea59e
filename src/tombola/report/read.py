"""Run directories read into typed results: damaged files left out, unfinished runs up to their last stage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError
from tombola.report.unfinished import RESUME, begun_stages, partial_result
from tombola.results.codec import typed
from tombola.results.comparison import ComparisonResult
from tombola.results.connectivity import ConnectivityResult
from tombola.results.double_descent import DescentResult
from tombola.results.initialisations import InitialisationsResult
from tombola.results.landscape import LandscapeResult
from tombola.results.measurement import Measurement
from tombola.results.overlap import OverlapResult
from tombola.results.regime import RegimeResult
from tombola.results.reproduction import ReproductionResult
from tombola.results.run import RunRecord
from tombola.results.search import SearchResult
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.trial import LevelResult
from tombola.results.verification import VerificationResult
from tombola.runs.integrity import KEY, RUN, Damaged, read_file, read_record
from tombola.runs.listing import damage
from tombola.runs.stage import RESULT

NOT_VERIFIED = (
    "No verification was given, so nothing here says how the ticket does on fresh seeds against its controls."
)
NO_CONTROLS = "No random or reinitialised controls were trained at the levels of this search."
Result = SearchResult | VerificationResult | ComparisonResult | OverlapResult | ReproductionResult | Measurement
MEASUREMENTS: Mapping[str, type[Measurement]] = {
    "connectivity": ConnectivityResult,
    "initialisations": InitialisationsResult,
    "regime": RegimeResult,
    "double-descent": DescentResult,
    "landscape": LandscapeResult,
}
"""Their kind -> the type of the result; how it is shown stands in `report.measured`."""


@dataclass(frozen=True)
class Run:
    """A run directory as far as it has been written. Files that its results name are absolute, or left out."""

    path: Path
    record: RunRecord
    find: SearchResult | None = None
    verify: VerificationResult | None = None
    study: ComparisonResult | None = None
    overlap: OverlapResult | None = None
    reproduction: ReproductionResult | None = None
    measured: Measurement | None = None
    other: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.record.name or self.path.name

    @property
    def from_ticket(self) -> bool:
        """Whether its search went on from a ticket."""
        return self.record.config.get("start") is not None


@dataclass(frozen=True)
class Folder:
    """A run's directory, and its damaged files."""

    path: Path
    damaged: frozenset[Path] = frozenset()

    def inside(self, name: str) -> Path | None:
        """The path of a file that is undamaged and lies inside: a run may name its own files only."""
        path = self.path / name
        if path in self.damaged:
            return None
        try:
            path.is_file()  # refuses names that no file can have
            return path if path.resolve().is_relative_to(self.path.resolve()) else None
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
            return None

    def level(self, level: LevelResult) -> LevelResult:
        """A level with absolute paths: "" for a log, None for a ticket, that may not be read."""
        ticket = self.inside(level.ticket) if level.ticket else None
        log = self.inside(level.metrics) if level.metrics else None
        return level.replace(metrics=str(log or ""), ticket=ticket and str(ticket))

    def files(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the files that may be read."""
        return tuple(str(file) for name in names if (file := self.inside(name)) is not None)


def _located(result: Result, folder: Folder) -> Result:
    """A result with the paths of its files made absolute, unreadable ones left out."""
    if isinstance(result, ReproductionResult):
        return result  # it names no files
    if isinstance(result, SearchResult):
        return result.replace(replicates=tuple(replicate.map(folder.level) for replicate in result.replicates))
    if isinstance(result, VerificationResult):
        arms = {name: arm.replace(metrics=folder.files(arm.metrics)) for name, arm in result.arms.items()}
        return result.replace(arms=arms)
    if isinstance(result, Measurement):
        return result
    if isinstance(result, OverlapResult):
        return result.replace(accuracy=tuple(x.replace(tickets=folder.files(x.tickets)) for x in result.accuracy))
    compared = (
        arm.replace(replicates=tuple(tuple(map(folder.level, levels)) for levels in arm.replicates))
        for arm in result.arms
    )
    return result.replace(arms=tuple(compared))


def result_of(content: Mapping[str, Any], file: Path) -> Result | None:
    """The typed result in a result.json; None for an unknown kind."""
    kind = content.get("kind")
    if isinstance(kind, str) and kind in MEASUREMENTS:
        return typed(MEASUREMENTS[kind], content, file)
    if kind == "find":
        return typed(SearchResult, content, file)
    if kind == "verify":
        return typed(VerificationResult, content, file)
    if kind == "study":
        return typed(ComparisonResult, content, file)
    if kind == "reproduction":
        return typed(ReproductionResult, content, file)
    return typed(OverlapResult, content, file) if kind == "overlap" else None


def _no_run(path: Path) -> str:
    """Why a path is no run directory."""
    if not path.exists():
        return f"run directory {path} is not there; `tombola runs` lists those in a folder"
    if not path.is_dir():
        return f"{path} is a file; name the directory of a run"
    inside = sorted(file.parent.name for file in path.glob("*/run.json"))
    if inside:
        count = len(inside)
        return f"{path} holds {count} runs and is none itself; give it alone, or name each, such as {path / inside[0]}"
    return f"{path} holds no run.json, so it is no run directory; `tombola runs` lists those in a folder"


def _damage(path: Path, problem: Damaged) -> str:
    name = problem.file.relative_to(path).as_posix()
    return f"{name} {problem.what}, and is left out; the run's command computes it anew."


def _gaps(result: Result) -> list[str]:
    """Sentences on what a result lacks."""
    if isinstance(result, SearchResult):
        return _search_gaps(result)
    if isinstance(result, ComparisonResult):
        untested = [arm.name for arm in result.arms if not arm.test_accuracy.known]
        notes = [f"No test {result.metric} of: {', '.join(untested)}."] if untested else []
        count = max((len(arm.replicates) for arm in result.arms), default=0)
        return notes + ([_no_intervals("the arms have", count)] if count < FEWEST_REPLICATES else [])
    if isinstance(result, LandscapeResult):  # its intervals are over masks
        return []
    if isinstance(result, OverlapResult | Measurement) and result.replicates < FEWEST_REPLICATES:
        return [_no_intervals("the study has", result.replicates)]
    return []


def _no_intervals(have: str, count: int) -> str:
    return f"There are no intervals: they need {FEWEST_REPLICATES} replicates, and {have} {count}."


def _search_gaps(find: SearchResult) -> list[str]:
    notes = []
    longest = max(len(rep.levels) for rep in find.replicates)
    for rep in find.replicates:
        have = len(rep.levels)
        if have < longest:
            notes.append(f"Replicate {rep.replicate} has {have} of {longest} levels so far.")
    levels = [entry for rep in find.replicates for arm in rep.arms.values() for entry in arm]
    without = sum(not entry.metrics or not Path(entry.metrics).is_file() for entry in levels)
    if without:
        notes.append(
            f"The training log is missing for {without} of {len(levels)} trained networks: "
            "the training curves are drawn from the rest."
        )
    untested = sum(entry.test_accuracy is None for entry in levels)
    if untested:
        notes.append(f"{untested} of {len(levels)} trained networks have no test {find.metric}.")
    if not any(entry.layers for entry in levels):
        notes.append("Counts per layer were not recorded.")
    if find.pruned and not {"random", "reinit"} & set(find.arms):
        notes.append(NO_CONTROLS)
    return notes


def _has_ticket(find: SearchResult) -> bool:
    """Whether anything was pruned, or is still to be: a dense network alone has no claim to verify."""
    return not any(rep.arms for rep in find.replicates) or find.pruned


def read_run(path: Path) -> Run:
    """Read one run directory.

    Raises:
        TombolaError: no run.json there, or a file holds a value that cannot be right.
    """
    if not os.path.lexists(path / RUN):
        raise TombolaError(_no_run(path))
    problems = damage(path)
    folder = Folder(path, frozenset(problem.file for problem in problems))
    if path / RUN in folder.damaged:
        raise problems[0]
    record = typed(RunRecord, read_record(path / RUN) or {}, path / RUN)
    content = None if path / RESULT in folder.damaged else read_record(path / RESULT)
    missing = [_damage(path, problem) for problem in problems]
    other: Mapping[str, Any] = {}
    if content is not None:
        result = result_of(content, path / RESULT)
        if result is None:
            other = {key: value for key, value in content.items() if key != KEY}
            missing.append(
                f"There are no figures for results of kind {content.get('kind')!r}: they are listed as found."
            )
    else:
        missing += [RESUME, *begun_stages(path)]
        result = partial_result(path, record)
        if result is None:
            missing.append("No network has been trained to its end yet.")
    run = Run(path, record, other=other)
    if result is not None:
        result = _located(result, folder)
        missing += _gaps(result)
        run = _with_result(run, result)
    if run.find is not None and _has_ticket(run.find):
        missing.append(NOT_VERIFIED)
    return replace(run, missing=tuple(missing))


def _with_result(run: Run, result: Result) -> Run:
    if isinstance(result, SearchResult):
        return replace(run, find=result)
    if isinstance(result, VerificationResult):
        return replace(run, verify=result)
    if isinstance(result, ReproductionResult):
        return replace(run, reproduction=result)
    if isinstance(result, Measurement):
        return replace(run, measured=result)
    return replace(run, study=result) if isinstance(result, ComparisonResult) else replace(run, overlap=result)


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read several run directories, in the order given."""
    if not paths:
        raise TombolaError("no run directory was given; expected one or more; name one that Tombola wrote")
    return joined([read_run(Path(path)) for path in paths])


def joined(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Every verification of a ticket that one of the searches found is shown with that search."""
    wanted = {digest for run in runs if run.find is None and run.verify is not None if (digest := _verified(run))}
    unverified = [run for run in runs if run.find is not None and run.verify is None] if wanted else []
    searches = {digest: run for run in unverified for digest in _tickets(run)}
    proofs = {
        searches[digest].path: run
        for run in runs
        if run.find is None and run.verify is not None and (digest := _verified(run)) in searches
    }
    taken = {proof.path for proof in proofs.values()}
    return tuple(
        _with_proof(run, proofs[run.path]) if run.path in proofs else run for run in runs if run.path not in taken
    )


def _tickets(run: Run) -> list[str]:
    """Digests by which verifications refer to a search's tickets, by level: the ticket's own, and that of its bytes."""
    from tombola.ticket.ticket import UNLIMITED, Ticket

    digests = []
    for file in sorted(run.path.glob("replicate-*/level-*/*.ticket")):
        try:
            data = read_file(file) or b""
        except Damaged:
            continue
        digests.append(hashlib.sha256(data).hexdigest())
        try:
            digests.append(Ticket.from_bytes(data, max_weights=UNLIMITED).digest)
        except TombolaError:  # no ticket, whatever its name
            continue
    return digests


def _verified(run: Run) -> str:
    return str(run.record.config.get("ticket", ""))


def _with_proof(run: Run, proof: Run) -> Run:
    commands = dict.fromkeys((run.record.command, proof.record.command))
    return replace(
        run,
        verify=proof.verify,
        record=run.record.replace(command="\n".join(commands)),
        missing=tuple(
            f"{note} Those of the verification are for its ticket alone." if note == NO_CONTROLS else note
            for note in run.missing
            if note != NOT_VERIFIED
        ),
    )
