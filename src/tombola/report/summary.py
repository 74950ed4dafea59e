"""Run directories read into plain data: checked where present, tolerant of what is not there yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tombola.errors import TombolaError
from tombola.report.comparison import SEEDS, Study, read_study
from tombola.report.levels import Folder, Level, read_better, read_interval, read_level, read_shape
from tombola.report.nodes import Node, load
from tombola.report.overlap import MaskOverlap, read_overlap
from tombola.report.unfinished import RESUME, begun_stages, partial_result
from tombola.runs.integrity import KEY, RUN, Damaged, read_file
from tombola.runs.listing import damage
from tombola.runs.stage import RESULT

ARMS = ("ticket", "random", "reinit", "dense")
VERDICTS = ("yes", "no", "undecided", "cannot decide")
NOT_VERIFIED = (
    "No verification was given, so nothing here says how the ticket does on fresh seeds against its controls."
)


@dataclass(frozen=True)
class Replicate:
    """One repetition of a search: its levels, by arm."""

    replicate: int
    seed: int | None
    ticket: str
    arms: Mapping[str, tuple[Level, ...]]


@dataclass(frozen=True)
class Find:
    """What a search found."""

    method: str
    model: str
    data: str
    metric: str
    replicates: tuple[Replicate, ...]
    parameters: tuple[int, int] | None = None  # prunable, all
    better: str | None = None
    input_shape: tuple[int, ...] | None = None
    from_ticket: bool = False

    @property
    def pruned(self) -> bool:
        """Whether any network of the search lacks weights."""
        levels = (level for rep in self.replicates for found in rep.arms.values() for level in found)
        return any(level.density < 1 for level in levels)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that have at least one level, the known ones first."""
        present = {name for rep in self.replicates for name, levels in rep.arms.items() if levels}
        return tuple(a for a in ARMS if a in present) + tuple(sorted(present - set(ARMS)))


@dataclass(frozen=True)
class Arm:
    """One arm of a verification; sequences run over its replicates."""

    test_accuracy: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    early_stop_iteration: tuple[int | None, ...]
    iterations_to_dense_loss: tuple[int | None, ...]
    metrics: tuple[Path, ...]


@dataclass(frozen=True)
class Comparison:
    """The ticket against one control: difference of means, one-sided lower bound and two-sided interval.

    ``lower`` is the bound that decides: the Holm-corrected one, where the run has it. ``seeds_alone`` is the interval
    that leaves the choice of test examples out.
    """

    difference: float | None
    lower: float | None
    interval: tuple[float, float] | None
    claim: str
    verdict: str
    seeds_alone: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    covers: str = SEEDS
    why: str = ""


@dataclass(frozen=True)
class Verify:
    """A verification of one ticket."""

    ticket: str
    density: float | None
    replicates: int | None
    margin: float | None
    metric: str
    arms: Mapping[str, Arm]
    comparisons: Mapping[str, Comparison]
    sentence: str
    parameters: tuple[int, int] | None = None  # prunable, all
    better: str | None = None

    @property
    def covers(self) -> str:
        """What its bounds and intervals cover."""
        found = {item.covers for item in self.comparisons.values()} or {SEEDS}
        return found.pop() if len(found) == 1 else "training seeds, and test examples where their results were kept"


@dataclass(frozen=True)
class Run:
    """A run directory as far as it has been written."""

    path: Path
    kind: str
    name: str
    command: str
    config: object
    versions: Mapping[str, str]
    seed: str
    fingerprint: str
    find: Find | None = None
    verify: Verify | None = None
    study: Study | None = None
    overlap: MaskOverlap | None = None
    other: Mapping[str, object] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def _iterations(node: Node, key: str) -> tuple[int | None, ...]:
    values = (item.as_number(0) for item in node.elements(key))
    return tuple(None if value is None else int(value) for value in values)


def _find(node: Node, root: Folder, from_ticket: bool) -> Find:
    metric = node.text("metric", "accuracy")
    top = 1.0 if metric == "accuracy" else float("inf")
    replicates = []
    for index, item in enumerate(node.elements("replicates")):
        arms = {
            name: tuple(sorted((read_level(entry, root, top) for entry in levels.items()), key=lambda x: x.level))
            for name, levels in item.members("arms")
        }
        number = item.integer("replicate")
        seed = item.integer("seed")
        replicates.append(Replicate(index if number is None else number, seed, item.text("ticket"), arms))
    return Find(
        node.text("method", "?"),
        node.text("model", "?"),
        node.text("data", "?"),
        metric,
        tuple(replicates),
        _parameters(node),
        read_better(node, metric),
        read_shape(node),
        from_ticket,
    )


def _parameters(node: Node) -> tuple[int, int] | None:
    """How many parameters are prunable, and how many there are; None where that was not recorded."""
    found = node.get("parameters")
    pair = None if found is None else (found.integer("prunable"), found.integer("total"))
    return None if pair is None or None in pair else pair  # type: ignore[return-value]


def _arm(node: Node, root: Folder, top: float) -> Arm:
    accuracies = (item.as_number(-top, top) for item in node.elements("test_accuracy"))
    names = (str(item.value) for item in node.elements("metrics") if item.value is not None)
    return Arm(
        test_accuracy=tuple(value for value in accuracies if value is not None),
        mean=node.number("mean"),
        interval=read_interval(node, "interval"),
        early_stop_iteration=_observed(node),
        iterations_to_dense_loss=_iterations(node, "iterations_to_dense_loss"),
        metrics=tuple(path for path in (root.inside(name) for name in names) if path is not None),
    )


def _observed(node: Node) -> tuple[int | None, ...]:
    """Early-stop iterations; None where the lowest loss lay in the last evaluations, so that a later one is unseen."""
    stops, seen = _iterations(node, "early_stop_iteration"), [x.value for x in node.elements("early_stop_observed")]
    return (
        stops if len(seen) != len(stops) else tuple(stop if ok else None for stop, ok in zip(stops, seen, strict=True))
    )


def _comparison(node: Node) -> Comparison:
    verdict = node.text("verdict", "undecided")
    if verdict not in VERDICTS:
        raise Node(verdict, f"{node.where}.verdict").wrong(f"{', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}")
    alone, corrected = node.get("seeds_alone"), node.number("lower_holm")
    return Comparison(
        difference=node.number("difference"),
        lower=node.number("lower") if corrected is None else corrected,
        interval=read_interval(node, "interval"),
        claim=node.text("claim"),
        verdict=verdict,
        seeds_alone=None if alone is None else read_interval(alone, "interval"),
        p=node.number("p", 0, 1),
        p_holm=node.number("p_holm", 0, 1),
        covers=node.text("covers", SEEDS),
        why=node.text("why"),
    )


def _verify(node: Node, root: Folder) -> Verify:
    metric = node.text("metric", "accuracy")
    top = 1.0 if metric == "accuracy" else float("inf")
    return Verify(
        ticket=node.text("ticket"),
        density=node.number("density", 0, 1),
        replicates=node.integer("replicates"),
        margin=node.number("margin", 0),
        metric=metric,
        arms={name: _arm(arm, root, top) for name, arm in node.members("arms")},
        comparisons={name: _comparison(item) for name, item in node.members("comparisons")},
        sentence=node.text("sentence"),
        parameters=_parameters(node),
        better=read_better(node, metric),
    )


def _no_run(path: Path) -> str:
    """What there is in the place of a run directory."""
    if not path.exists():
        return f"run directory {path} is not there; `tombola runs` lists those in a folder"
    if not path.is_dir():
        return f"{path} is a file; name the directory of a run"
    inside = sorted(file.parent.name for file in path.glob("*/run.json"))
    if inside:
        return f"{path} holds {len(inside)} runs and is none itself; name them one by one, such as {path / inside[0]}"
    return f"{path} holds no run.json, so it is no run directory; `tombola runs` lists those in a folder"


def _damage(path: Path, problem: Damaged) -> str:
    place = problem.file.relative_to(path).as_posix()
    return f"{place} {problem.what}, and is left out; the run's command computes it anew."


def _gaps(find: Find) -> list[str]:
    """What a search lacks, in plain words."""
    if not find.replicates:
        return ["No replicate has finished a level yet."]
    notes = []
    longest = max(len(rep.arms.get("ticket", ())) for rep in find.replicates)
    for rep in find.replicates:
        have = len(rep.arms.get("ticket", ()))
        if have < longest:
            notes.append(f"Replicate {rep.replicate} has {have} of {longest} levels so far.")
    levels = [entry for rep in find.replicates for arm in rep.arms.values() for entry in arm]
    without = sum(entry.metrics is None or not entry.metrics.is_file() for entry in levels)
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
        notes.append("No random or reinitialised controls were trained at the levels of this search.")
    return notes


def _has_ticket(find: Find) -> bool:
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
    head = load(path / RUN) if (path / RUN).is_file() else None
    if head is None or path / RUN in folder.damaged:
        raise problems[0]
    result = load(path / RESULT) if path / RESULT not in folder.damaged else None
    proof = load(path / "verify.json")
    kind = head.text("kind", "unknown")
    config = head.get("config")
    missing = [_damage(path, problem) for problem in problems]
    find = verify = study = overlap = None
    other: Mapping[str, object] = {}
    settings = {} if config is None else config.value
    if result is None and proof is None:
        missing += [RESUME, *begun_stages(path)]
        result = partial_result(path, kind, settings)
        if result is None:
            missing.append("No network has been trained to its end yet.")
    if result is not None:
        what = result.text("kind", kind)
        if what == "find":
            find = _find(result, folder, isinstance(settings, Mapping) and settings.get("start") is not None)
            missing += _gaps(find)
        elif what == "verify" and proof is None:
            proof = result
        elif what == "study" and result.get("arms") is not None:
            study = read_study(result, folder)
            missing += study.gaps
        elif what == "overlap":
            overlap = read_overlap(result, folder)
            missing += overlap.gaps
        elif isinstance(result.value, dict):
            other = {key: value for key, value in result.value.items() if key != KEY}
            missing.append(f"There are no figures for results of kind {what!r}: they are listed as found.")
    if proof is not None:
        verify = _verify(proof, folder)
    elif find is not None and _has_ticket(find):
        missing.append(NOT_VERIFIED)
    return Run(
        path=path,
        kind=kind,
        name=head.text("name") or path.name,
        command=head.text("command"),
        config=settings,
        versions={name: str(item.value) for name, item in head.members("versions")},
        seed=head.text("seed"),
        fingerprint=head.text("fingerprint"),
        find=find,
        verify=verify,
        study=study,
        overlap=overlap,
        other=other,
        missing=tuple(missing),
    )


def read_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Read several run directories, in the order given."""
    if not paths:
        raise TombolaError("no run directory was given; expected one or more; name one that Tombola wrote")
    return joined([read_run(Path(path)) for path in paths])


def joined(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Every verification of a ticket that one of the searches found is shown with that search."""
    wanted = {digest for run in runs if run.find is None and run.verify is not None if (digest := _verified(run))}
    found = [run for run in runs if run.find is not None and run.verify is None] if wanted else []
    searches = {digest: run for run in found for digest in _tickets(run)}
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
    """What verifications may call a search's tickets, level by level: the digest in the file, and that of its bytes."""
    from tombola.ticket.ticket import UNLIMITED, Ticket

    found = []
    for file in sorted(run.path.glob("replicate-*/level-*/*.ticket")):
        try:
            data = read_file(file) or b""
        except Damaged:
            continue
        found.append(hashlib.sha256(data).hexdigest())
        try:
            found.append(Ticket.from_bytes(data, max_weights=UNLIMITED).digest)
        except TombolaError:  # no ticket, whatever its name
            continue
    return found


def _verified(run: Run) -> str:
    return str(run.config.get("ticket", "")) if isinstance(run.config, Mapping) else ""


def _with_proof(run: Run, proof: Run) -> Run:
    commands = [run.command, proof.command] if proof.command != run.command else [run.command]
    return replace(
        run,
        verify=proof.verify,
        command="\n".join(commands),
        missing=tuple(note for note in run.missing if note != NOT_VERIFIED),
    )
