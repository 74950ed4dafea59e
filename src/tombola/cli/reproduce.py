"""reproduce: what papers claim beside what is found here."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import fill, wrap
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from tombola.cli.effect import changed, refuse
from tombola.cli.screen import PLAIN_WIDTH, Screen, loading
from tombola.cli.searches import MACHINE
from tombola.cli.values import new_parser
from tombola.cli.verb import Verb, option_names
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import plural
from tombola.results.reproduction import ReproductionResult
from tombola.runs.stage import RESULT
from tombola.study.reproduce.definition import FORMS, Reproduction, names, read_reproduction
from tombola.study.reproduce.run import Asked, Step, run_reproduction, steps_of, written
from tombola.train.length import Length
from tombola.train.options import Options


def verbs() -> list[Verb]:
    """`reproduce`."""
    line = (
        "Put a paper's claims beside what is found here: agrees, differs, or not decidable. Without a name: list them."
    )
    return [Verb(("reproduce",), line, _add, _run)]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name",
        type=str | None,
        nargs="?",
        default=None,
        help="a reproduction, or your own .yaml file (null: list)",
    )
    study = parser.add_argument_group("study")
    study.add_argument(
        "--full",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="the paper's settings, which take hours to weeks, instead of the quick form's, which take minutes",
    )
    study.add_argument(
        "--describe",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="run nothing: say what the paper claims, what is measured and which commands would be run",
    )
    study.add_argument(
        "--length",
        type=str | None,
        default=None,
        help="train every network for so long instead, to try a reproduction out (null: as the form says)",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    run.add_argument(
        "--replicates", type=int | None, default=None, help="times every search is done (null: as the form says)"
    )
    run.add_argument("--jobs", type=int, default=1, help="processes that share the searches out")
    run.add_argument("--out", type=str, default="runs", help="folder in which all runs get their own directories")
    run.add_argument("--data_root", type=str, default="data", help="the folder that holds the data sets")
    MACHINE.add(parser)


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    if given["name"] is None:
        idle = [name for name in changed(given, _add, new_parser()) if name not in ("out", "json")]
        refuse(idle, "without a name, reproductions are listed; name one of them, or leave it out")
        return _listed(screen, Path(given["out"]))
    if given["describe"]:
        return _described(screen, given["name"], given["full"])
    machine = Options(**MACHINE.read(given))
    result = reproduce(
        given["name"],
        full=given["full"],
        length=given["length"],
        seed=given["seed"],
        replicates=given["replicates"],
        jobs=given["jobs"],
        out=given["out"],
        data_root=given["data_root"],
        options=machine,
        screen=screen,
    )
    show_reproduction(screen, result)
    return result.as_dict()


def _listed(screen: Screen, out: Path) -> Mapping[str, Any]:
    """The reproductions, each on two lines that fit a terminal of 80 columns; and which have been run below `out`."""
    found = {name: read_reproduction(name) for name in names()}
    run = {name: _forms_run(out, name) for name in found}
    for name, one in found.items():
        done = f"  ({' and '.join(run[name])} form run)" if run[name] else ""
        screen.line(f"{name}{done}")
        quick = len(one.claims_in(FORMS[False]))
        about = f"{one.source}; {plural(len(one.claims), 'claim')}"
        about += f", {quick} in the quick form" if quick < len(one.claims) else ""
        screen.line("\n".join(wrap(f"{one.title}: {about}", 78, initial_indent="  ", subsequent_indent="  ")))
    screen.line()
    screen.line("tombola reproduce NAME runs the quick form, --full the paper's own settings;")
    screen.line("--describe says what is claimed, and what would be run.")
    return {
        "reproductions": [
            {"name": name, "title": one.title, "paper": one.paper, "claims": len(one.claims), "run": run[name]}
            for name, one in found.items()
        ]
    }


def _forms_run(out: Path, name: str) -> list[str]:
    """The forms of a reproduction that lie finished below a folder."""
    pattern = "[0-9a-f]" * 10
    return [form for form in FORMS if any(out.glob(f"reproduce-{name}-{form}-{pattern}/{RESULT}"))]


def _described(screen: Screen, name: str, full: bool) -> Mapping[str, Any]:
    """What a paper claims, how each claim is tried, and the commands that would be run."""
    one, form = read_reproduction(name), FORMS[full]
    for text in (one.title, one.paper, " ".join(one.claimed.split()), ""):
        screen.line(fill(text, 78))
    claims, steps = one.claims_in(form), [step.shown for _, step in steps_of(one, Asked(form=form))]
    for claim in claims:
        screen.line(fill(claim.what, 78, initial_indent="- ", subsequent_indent="  "))
        for text in (f"published: {claim.published}", f"measured: {claim.measured}"):
            screen.line(fill(text, 78, initial_indent="    ", subsequent_indent="    "))
    screen.line()
    screen.line(f"Commands of the {form} form:")
    for shown in steps:
        screen.line(shown)
    described = [{"what": one.what, "published": one.published, "measured": one.measured} for one in claims]
    return {"name": name, "title": one.title, "paper": one.paper, "claims": described, "commands": steps}


@checked
def reproduce(
    name: str | Path,
    *,
    full: bool = False,
    length: str | None = None,
    seed: int = 0,
    replicates: int | None = None,
    jobs: int = 1,
    out: str | Path = "runs",
    data_root: str | Path = "data",
    options: Options | None = None,
    screen: Screen | None = None,
) -> ReproductionResult:
    """Run the studies of a paper's reproduction, and put what it claims beside what they gave.

    Args:
        name: as `tombola reproduce` lists it, or a YAML file of one's own.
        full: the paper's settings instead of the quick form's.
        length: train every network for so long instead, e.g. "100it"; the result says that it was shortened.
        replicates: times every search is done; None: as the file says. Intervals need 3.
        out: folder in which this run, and those of its studies, get their directories.
        screen: where the commands are named before they are carried out; None: nowhere.

    Returns:
        For every claim what was published, what was found with its 95 % interval, and a verdict: "agrees", "differs",
        "not decidable at this length" or, of a published number in the quick form, "not comparable at this length".

    Raises:
        TombolaError: there is no such reproduction, or one of its commands cannot be carried out.
    """
    name, machine = str(name), options or Options()
    reproduction = read_reproduction(name)
    if jobs < 1:
        raise TombolaError(f"jobs is {jobs}, but it must be at least 1")
    if length is not None:
        Length.parse(length)
    if replicates is not None and replicates < 1:
        raise TombolaError(f"replicates is {replicates}; give at least 1, or leave it out")
    asked = Asked(
        form=FORMS[full],
        seed=seed,
        replicates=replicates,
        shorten={} if length is None else {"length": length},
        place={"jobs": jobs, "out": str(out), "data_root": str(data_root), **asdict(machine)},
    )
    if length is not None and not _takes_length(reproduction, asked):
        raise TombolaError(f"length has no effect on {name}: none of its commands trains for a length; leave it out")
    with loading(machine.progress):
        from tombola.search.driver import machine as described

    def perform(step: Step) -> Mapping[str, Any]:
        if screen is not None:
            screen.line(step.shown)
        return perform_step(step)

    place = described(machine, jobs)
    return run_reproduction(
        name, reproduction, asked, Path(out), perform, place, arms=arms_of_step, force=machine.force
    )


def _takes_length(reproduction: Reproduction, asked: Asked) -> bool:
    """Whether a command has a length to be trained for: an option of its own, or one in the recipe that it is given."""
    whole = steps_of(reproduction, replace(asked, shorten={}))
    return any(
        step.words != as_written.words or "length" in option_names(verb_of(step)[0].parser())
        for (_, step), (_, as_written) in zip(steps_of(reproduction, asked), whole, strict=True)
    )


def perform_step(step: Step) -> Mapping[str, Any]:
    """Carry out one command, without a word on the screen; gives what it prints as JSON.

    Raises:
        TombolaError: the command cannot be carried out; the message names its run.
    """
    with _named(step):
        verb, given = _parsed(step)
        return verb.run(given, _Quiet())


def arms_of_step(step: Step) -> Mapping[str, str] | None:
    """The arms that a command's result will have, each with its series; None where that is not known before.

    Raises:
        TombolaError: the command cannot be carried out; the message names its run.
    """
    with _named(step):
        verb, given = _parsed(step)
        return None if verb.arms is None else verb.arms(given)


def _parsed(step: Step) -> tuple[Verb, Namespace]:
    """The command that carries out a step, and its options as they are replaced here."""
    verb, words = verb_of(step)
    known = option_names(verb.parser())
    overrides = {key: value for key, value in step.overrides.items() if key in known and value not in (None, ())}
    return verb, verb.parse([*words, *written(overrides)])


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Errors say which run they are of."""
    try:
        yield
    except TombolaError as error:
        raise TombolaError(f"run {step.name}: {error}") from None


def verb_of(step: Step) -> tuple[Verb, list[str]]:
    """The command that carries out a step, and its options."""
    from tombola.cli import find_verb
    from tombola.cli.studies import definition_verb

    if step.study is not None:
        return definition_verb(step.study, ("study", step.name), step.name, step.name), list(step.words)
    verb, words = find_verb(list(step.words))
    if verb is None:
        raise TombolaError(f"{' '.join(step.words)} is no whole command")
    return verb, words


class _Quiet(Screen):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self._console = Console(file=io.StringIO(), width=PLAIN_WIDTH)


def show_reproduction(screen: Screen, result: ReproductionResult) -> None:
    """The claims with what was published and found, and the verdicts."""
    from tombola.report.reproduction_tables import reproduction_tables

    screen.line()
    screen.line(f"{result.title}: {result.paper}")
    screen.line(result.claimed)
    screen.line()
    screen.tables(reproduction_tables(result))
    screen.line(result.sentence)
    screen.run(result.run, result.reused)
