"""The page: run directories in, one self-contained HTML file and its figures out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.errors import TombolaError
from tombola.report import plots, style, tables, words
from tombola.report.aggregate import points, spread
from tombola.report.comparison import Study
from tombola.report.overlap_tables import overlap_numbers, overlap_tables
from tombola.report.plot import Plot, files
from tombola.report.summary import Find, Run, read_runs
from tombola.report.tables import Table
from tombola.report.words import Unit

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of: the page, and every figure as .svg and .pdf."""

    html: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class Number:
    """A key number with its name and a remark."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Shown:
    """A figure as the template needs it."""

    title: str
    caption: str
    svg: str
    files: tuple[str, str]


@dataclass(frozen=True)
class Section:
    """One run on the page."""

    anchor: str
    name: str
    subtitle: str
    verdict: str
    more: str
    verdicts: tuple[tuple[str, str], ...]
    numbers: tuple[Number, ...]
    missing: tuple[str, ...]
    figures: tuple[Shown, ...]
    tables: tuple[Table, ...]
    command: str
    made: tuple[Table, ...]


def key_numbers(run: Run) -> tuple[Number, ...]:
    """The few numbers that a reader wants first."""
    if run.verify is not None:
        verify, unit = run.verify, Unit(run.verify.metric)
        found = [Number("Weights kept", words.density(verify.density))] if verify.density is not None else []
        for name, arm in verify.arms.items():
            if arm.mean is None:
                continue
            found.append(Number(style.arm_name(name), unit.show(arm.mean), unit.half(arm.mean, arm.interval)))
        if verify.replicates:
            found.append(Number("Replicates", str(verify.replicates), "per arm, fresh seeds"))
        found += _prunable_number(verify.parameters)
        return tuple(found)
    if run.study is not None:
        return _study_numbers(run.study)
    if run.overlap is not None:
        return tuple(Number(*shown) for shown in overlap_numbers(run.overlap))
    if run.find is None:
        return ()
    find, unit = run.find, Unit(run.find.metric)
    dense, best = words.dense_point(find), words.sparsest_that_keeps_up(find)
    found = []
    if dense is None:
        found += _sparsest_numbers(find)
    else:
        found.append(Number("Dense", unit.show(dense.spread.mean), f"test {find.metric}"))
    if best is not None:
        found.append(Number("Keeps up down to", words.density(best.density), "of the prunable weights"))
        found.append(Number("Ticket there", unit.show(best.spread.mean), f"test {find.metric}"))
        found.append(Number("Smaller by", f"{1 / best.density:.3g} ×", "prunable weights"))
    if find.replicates:
        found.append(Number("Replicates", str(len(find.replicates)), "whole searches"))
    return (*found, *_prunable_number(find.parameters))


def _prunable_number(parameters: tuple[int, int] | None) -> list[Number]:
    """What every density is a fraction of."""
    if parameters is None:
        return []
    prunable, total = parameters
    return [Number("Prunable", words.count(prunable), f"of {total:,} parameters: density is a fraction of these")]


def _sparsest_numbers(find: Find) -> list[Number]:
    """Of a search without a dense level: what its sparsest ticket keeps and reaches."""
    tickets = points(find, "ticket", lambda level: level.test_accuracy)
    if not tickets:
        return []
    last = min(tickets, key=lambda point: point.density)
    reached = Number("Ticket", Unit(find.metric).show(last.spread.mean), f"test {find.metric}")
    return [Number("Weights kept", words.density(last.density)), reached]


def _study_numbers(study: Study, most: int = 6) -> tuple[Number, ...]:
    """The arms' test results, or where they are many the first and the best."""
    unit = Unit(study.metric)
    known = [(arm, summary) for arm in study.arms if (summary := spread(arm.values["test_accuracy"]))]
    if len(known) > most:
        known = list({id(arm): (arm, x) for arm, x in (known[0], max(known, key=lambda p: p[1].mean))}.values())
    found = [Number(arm.name, unit.show(x.mean), unit.half(x.mean, x.interval)) for arm, x in known]
    return (*found, Number("Replicates", str(study.replicates), "of every arm"))


def _draw(drawn: Sequence[Plot], folder: Path, prefix: str) -> tuple[tuple[Shown, ...], list[Path]]:
    shown: list[Shown] = []
    written: list[Path] = []
    for plot in drawn:
        svg, paths = files(plot, folder, prefix)
        names = tuple(f"{folder.name}/{path.name}" for path in paths)
        shown.append(Shown(plot.title, plot.caption, svg, (names[0], names[1])))
        written += paths
    return tuple(shown), written


def slug(text: str) -> str:
    """``text`` as part of a file name or an HTML id: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "run"


def _section(run: Run, prefix: str, folder: Path) -> tuple[Section, list[Path]]:
    shown, written = _draw(plots.run_plots(run), folder, prefix)
    numbers = tables.verify_tables(run.verify) if run.verify is not None else []
    numbers += tables.find_tables(run.find) if run.find is not None else []
    numbers += tables.study_tables(run.study) if run.study is not None else []
    numbers += overlap_tables(run.overlap) if run.overlap is not None else []
    other = tables.other_table(run)
    made = (tables.config_table(run), tables.provenance_table(run))
    verdicts = () if run.verify is None else tuple((c.claim, c.verdict) for c in run.verify.comparisons.values())
    section = Section(
        anchor=f"{prefix}run",
        name=run.name,
        subtitle=words.subtitle(run),
        verdict=words.verdict(run),
        more=_more(run),
        verdicts=verdicts,
        numbers=key_numbers(run),
        missing=run.missing,
        figures=shown,
        tables=(*numbers, *([other] if other is not None else [])),
        command=run.command,
        made=tuple(table for table in made if table is not None),
    )
    return section, written


def _more(run: Run) -> str:
    """What stands under the verdict."""
    if run.study is not None:
        return run.study.note
    if run.overlap is not None:
        return run.overlap.note
    if run.verify is not None and run.find is not None:
        return f"In the search: {words.find_sentence(run.find)}"
    return ""


def environment() -> Environment:
    """The templates, with everything that comes from a run escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("tombola.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["together"] = words.keep_together
    # Figures come from our own renderer, which escapes the text it sets.
    made.filters["figure"] = Markup
    return made


def write_report(runs: Sequence[Path], out: Path) -> ReportFiles:
    """Write one page about the runs, and every figure beside it.

    Args:
        runs: run directories, in the order of the page.
        out: the page (a name that ends in .html), or a folder, which then gets ``report.html``. Figures go to
            ``figures/`` beside the page. Files of an earlier report are replaced.

    Returns:
        The page and the figure files. The same runs give the same bytes.

    Raises:
        TombolaError: a directory is not a run, a value cannot be right, or ``out`` cannot be written.
    """
    read = read_runs(runs)
    out = Path(out)
    html = out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
    folder = html.parent / "figures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        several = len(read) > 1
        shown, written = _draw(plots.combined_plots(read) if several else [], folder, "")
        sections = []
        for index, run in enumerate(read, 1):
            prefix = f"{index}-{slug(run.name)}-" if several else ""
            section, paths = _section(run, prefix, folder)
            sections.append(section)
            written += paths
        text = (
            environment()
            .get_template("page.html.j2")
            .render(
                title=f"{len(read)} runs" if several else read[0].name,
                several=several,
                overview=shown,
                overview_table=tables.runs_table(read) if several else None,
                sections=sections,
                colours=style.colours(),
            )
        )
        part = html.with_name(html.name + ".part")
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(html)
    except OSError as error:
        raise TombolaError(
            f"the report cannot be written to {html} ({error}); name a folder that is writable"
        ) from error
    return ReportFiles(html, tuple(written))
