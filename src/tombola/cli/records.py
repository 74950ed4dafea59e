"""report, runs and demo: what has been done, and the whole job in one go."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.screen import Screen, loading
from tombola.cli.searches import MACHINE, show_search
from tombola.cli.sweep import sweep_line
from tombola.cli.tickets import show_verdict
from tombola.cli.verb import Verb
from tombola.formats import Unit, density
from tombola.train.options import Options


def verbs() -> list[Verb]:
    """`report`, `runs` and `demo`."""
    return [
        Verb(
            ("report",),
            "Write a self-contained HTML page of one or more runs, or of a whole folder, with figures as SVG and PDF.",
            _add_report,
            _report,
        ),
        Verb(("runs",), "List the runs under a folder, and which of them can be resumed.", _add_runs, _runs),
        Verb(("demo",), "Find, verify and show a ticket on real digits, in about a minute.", _add_demo, _demo),
    ]


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        help="run directories, in the order of the page; a folder of runs or a sweep, alone: its settings compared",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="a folder or an .html file (null: the run's directory; for several runs, report/)",
    )
    parser.add_argument(
        "--against",
        type=dict[str, Any] | None,
        default=None,
        help="of a folder or a sweep: settings of the one to compare with, e.g. {lr: 0.1} (null: the first)",
    )


def _report(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.report.page import write_report
    from tombola.runs.listing import recorded_recipe

    runs = [Path(run) for run in given["runs"]]
    out = Path(given["out"]) if given["out"] else runs[0] if len(runs) == 1 else Path("report")
    files = write_report(runs, out, given["against"])
    screen.line(f"wrote {files.html}, and figures as {len(files.figures)} files beside it")
    return {
        "report": str(files.html),
        "figures": [str(path) for path in files.figures],
        "recipe": recorded_recipe(runs[0]) if len(runs) == 1 and (runs[0] / "run.json").is_file() else None,
    }


def _add_runs(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=str | None, nargs="?", default=None, help="the folder that holds the runs")
    parser.add_argument("--out", type=str | None, default=None, help="the folder, as in other commands (null: runs)")
    parser.add_argument(
        "--csv", type=str | None, default=None, help="write a row for every trained network of the runs to this file"
    )
    parser.add_argument("--parquet", type=str | None, default=None, help="the same as Parquet (tombola[pandas])")


def _runs(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.errors import TombolaError
    from tombola.runs.listing import list_runs

    if given["folder"] is not None and given["out"] is not None:
        raise TombolaError(f"folders are named twice, {given['folder']} and --out {given['out']}; name one")
    parent = Path(given["folder"] or given["out"] or "runs")
    if not parent.is_dir():
        problem = "is a file" if parent.exists() else "is not there"
        raise TombolaError(
            f"{parent} {problem}; name the folder that the runs were written to, as their commands did with --out: "
            "tombola runs --out FOLDER"
        )
    runs = list_runs(parent)
    _write_rows(parent, given, screen)
    rows = [[run["name"], run["kind"], run["state"], str(run["stages"]), _headline(run)] for run in runs]
    if rows:
        screen.table(("run", "kind", "state", "stages done", "result"), rows, left=(0, 1, 2, 4))
    else:
        screen.line(_none_in(parent))
    for run in runs:
        if run["state"] == "can be resumed":
            screen.line(f"resume {run['name']} with: {run['command']}")
        elif run["state"] == "damaged":
            again = f", with: {run['command']}" if run["command"] else ""
            screen.line(
                f"damaged {run['name']}: {_damage(run['damage'])}; run it again to have that computed anew{again}"
            )
    return {"runs": runs}


def _write_rows(parent: Path, given: Namespace, screen: Screen) -> None:
    if given["csv"] is None and given["parquet"] is None:
        return
    from tombola.results.table import results

    rows = results(parent)
    if given["csv"] is not None:
        rows.write_csv(given["csv"])
    if given["parquet"] is not None:
        rows.write_parquet(given["parquet"])
    for file in filter(None, (given["csv"], given["parquet"])):
        screen.line(f"wrote {file}: {len(rows)} trained networks")


def _none_in(parent: Path) -> str:
    """Message for a folder without runs, naming runs above or below it."""
    if (parent / "run.json").exists():
        around = parent.resolve().parent
        return f"{parent} is a run itself; runs beside it: tombola runs --out {shlex.quote(str(around))}"
    below = sorted({file.parent.parent for file in parent.glob("*/*/run.json")})
    if below:
        return f"no runs in {parent} itself; those in it: tombola runs --out {shlex.quote(str(below[0]))}"
    return (
        f"no runs in {parent}; commands such as tombola find imp write one there, with --out "
        f"{shlex.quote(str(parent))}, and tombola runs --out FOLDER lists those of another folder"
    )


def _damage(problems: Sequence[str]) -> str:
    rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{', '.join(problems[:3])}{rest}"


def _headline(run: Mapping[str, Any]) -> str:
    """The one thing to know of a finished run; nothing of one that this version does not read."""
    from tombola.errors import TombolaError
    from tombola.report.read import result_of
    from tombola.results.comparison import ComparisonResult
    from tombola.results.search import SearchResult
    from tombola.results.verification import VerificationResult

    if run["kind"] == "sweep" and run["result"]:
        return sweep_line(run["result"], Path(run["directory"]))
    try:
        result = run["result"] and result_of(run["result"], Path(run["directory"]) / "result.json")
    except TombolaError:
        return ""
    if not result:
        return ""
    if isinstance(result, VerificationResult):
        verdict = {True: "wins", False: "does not win", None: "not decided"}[result.wins]
        return f"{density(result.density)} of the prunable weights kept: {verdict}"
    if isinstance(result, ComparisonResult):
        return f"{len(result.arms)} arms, {result.replicates} replicates"
    if isinstance(result, SearchResult):
        last = result.replicates[0].levels[-1]
        figure = f"{Unit(result.metric).show(last.test_accuracy)} test {result.metric}"
        return f"{density(last.density)} of {last.total:,} prunable weights kept, {figure}"
    return result.sentence


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the runs and of report.html")
    MACHINE.add(parser)


def _demo(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    options, out = Options(**MACHINE.read(given)), Path(given["out"])
    with loading(options.progress):
        from tombola.report.page import write_report
        from tombola.study.demo import run_demo

    result = run_demo(out, options, given["seed"])
    page = write_report([result.find.run or "", result.verify.run or ""], out)
    show_search(screen, result.find)
    screen.line()
    show_verdict(screen, result.verify)
    screen.line(f"report  {page.html}")
    return {
        "recipe": result.find.recipe,
        "find": result.find.headed(),
        "verify": result.verify.as_dict(),
        "report": str(page.html),
    }
