"""The page: run directories in, one self-contained HTML file and its figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.report import measured, plots, stability, tables, words
from tombola.report.collection import is_collection, read_collection
from tombola.report.collection_page import Against, collection_page, refuse_against
from tombola.report.colours import css_colours
from tombola.report.combined import combined_plots
from tombola.report.cost_tables import find_cost_table, verify_cost_table
from tombola.report.leftovers import clear_leftovers
from tombola.report.looks import Look, Looks, page_looks, swatch
from tombola.report.numbers import Number, key_numbers
from tombola.report.overlap_tables import overlap_tables
from tombola.report.plot import Plot, Remark, Shown, files, slug
from tombola.report.read import Run, read_runs
from tombola.report.reproduction_tables import reproduction_tables
from tombola.report.study_tables import study_tables
from tombola.report.tables import Table
from tombola.runs.atomic import make_folder, write_bytes

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report: the page, and every figure as .svg and .pdf."""

    html: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class Claim:
    """A claim about the ticket, its verdict, and the look of the control that it speaks of."""

    text: str
    verdict: str
    look: Look


@dataclass(frozen=True)
class Drawn:
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
    question: str
    verdict: str
    more: str
    verdicts: tuple[Claim, ...]
    numbers: tuple[Number, ...]
    missing: tuple[str, ...]
    figures: tuple[Drawn, ...]
    remarks: tuple[str, ...]
    tables: tuple[Table, ...]
    command: str
    made: tuple[Table, ...]


def _draw(drawn: Sequence[Shown], folder: Path, prefix: str) -> tuple[tuple[Drawn, ...], tuple[str, ...], list[Path]]:
    """Figures with their inline SVG, sentences instead of figures, and the files written."""
    shown: list[Drawn] = []
    written: list[Path] = []
    for plot in (item for item in drawn if isinstance(item, Plot)):
        svg, paths = files(plot, folder, prefix)
        names = tuple(f"{folder.name}/{path.name}" for path in paths)
        shown.append(Drawn(plot.title, plot.caption, svg, (names[0], names[1])))
        written += paths
    return tuple(shown), tuple(item.text for item in drawn if isinstance(item, Remark)), written


def _section(run: Run, looks: Looks, prefix: str, folder: Path) -> tuple[Section, list[Path]]:
    drawn = plots.run_plots(run, looks) if run.measured is None else measured.plots(run.measured)
    shown, remarks, written = _draw(drawn, folder, prefix)
    numbers = tables.verify_tables(run.verify, looks) if run.verify is not None else []
    numbers += tables.find_tables(run.find, looks, from_ticket=run.from_ticket) if run.find is not None else []
    numbers += _costs(run, looks)
    numbers += study_tables(run.study, looks) if run.study is not None else []
    numbers += _stability(run, looks)
    numbers += overlap_tables(run.overlap, looks) if run.overlap is not None else []
    numbers += reproduction_tables(run.reproduction) if run.reproduction is not None else []
    numbers += measured.tables(run.measured) if run.measured is not None else []
    other = tables.other_table(run)
    made = (tables.config_table(run), tables.provenance_table(run))
    section = Section(
        anchor=f"{prefix}run",
        name=run.name,
        subtitle=words.subtitle(run),
        question=_question(run),
        verdict=words.verdict(run),
        more=_more(run),
        verdicts=_claims(run, looks),
        numbers=key_numbers(run, looks) if run.measured is None else measured.numbers(run.measured),
        missing=run.missing,
        figures=shown,
        remarks=remarks,
        tables=(*numbers, *([other] if other is not None else [])),
        command=run.record.command,
        made=tuple(table for table in made if table is not None),
    )
    return section, written


def _question(run: Run) -> str:
    """What the run asks, or what a paper claims."""
    if run.reproduction is not None:
        return f"{run.reproduction.title}. Claimed: {run.reproduction.claimed}"
    return run.study.summary if run.study is not None else ""


def _costs(run: Run, looks: Looks) -> list[Table]:
    """What a search and a verification cost; the arms of a study have theirs among its own tables."""
    found = [find_cost_table(run.find)] if run.find is not None else []
    verified = verify_cost_table(run.verify, looks) if run.verify is not None else None
    return [*found, *([verified] if verified is not None else [])]


def _stability(run: Run, looks: Looks) -> list[Table]:
    """When the masks of a search were stable, or what the arms of a study saved by that."""
    found = stability.search_table(run.find, looks.arm("ticket")) if run.find is not None else None
    arms = stability.study_table(run.study, looks) if run.study is not None else None
    return [table for table in (found, arms) if table is not None]


def _claims(run: Run, looks: Looks) -> tuple[Claim, ...]:
    if run.verify is None:
        return ()
    return tuple(Claim(x.claim, x.verdict, looks.arm(name)) for name, x in run.verify.comparisons.items())


def _more(run: Run) -> str:
    """The text under the verdict."""
    if run.study is not None:
        return run.study.note + words.recipes_sentence(run.study)
    if run.overlap is not None:
        return run.overlap.note
    if run.measured is not None:
        return run.measured.note
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
    made.filters["swatch"] = lambda look: Markup(swatch(look))
    return made


def _check_place(folder: Path) -> None:
    """TombolaError if the folder of figures is a link to elsewhere: a run that was sent may hold one."""
    if not folder.resolve().is_relative_to(folder.parent.resolve()):
        raise TombolaError(f"{folder} is a link to another folder; remove it, or name another place for the report")


def _collection_section(path: Path, folder: Path, html: Path, against: Against) -> tuple[Section, list[Path]]:
    page = collection_page(read_collection(path), html, against)
    shown, remarks, written = _draw(page.shown, folder, "")
    section = Section(
        anchor="runs",
        name=page.name,
        subtitle=page.subtitle,
        question="",
        verdict=page.sentence,
        more=page.note,
        verdicts=(),
        numbers=(),
        missing=page.missing,
        figures=shown,
        remarks=remarks,
        tables=page.tables,
        command=page.command,
        made=(),
    )
    return section, written


@checked
def write_report(runs: Sequence[str | Path], out: str | Path, against: Mapping[str, Any] | None = None) -> ReportFiles:
    """Write one page about the runs, and every figure beside it.

    Args:
        runs: run directories, in the order of the page; or a folder of runs, or a sweep, alone: then the page compares
            settings over seeds, and links single runs, which are drawn by a page of their own.
        out: the page (a name that ends in .html), or a folder, which then gets ``report.html``. Figures go to
            ``figures/`` beside the page. Files of an earlier report are replaced, and its figures that this one lacks
            removed; files that others wrote or changed stay.
        against: of many runs, some settings of the one that others are compared with, e.g. {"lr": 0.1}; None: the
            first.

    Returns:
        The page and the figure files. The same runs give the same bytes.

    Raises:
        TombolaError: a directory is not a run, a value cannot be right, or ``out`` cannot be written.
    """
    paths, out = [Path(run) for run in runs], Path(out)
    many = len(paths) == 1 and is_collection(paths[0])
    if not many:
        refuse_against(against)
    read = () if many else read_runs(paths)
    html = out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
    folder = html.parent / "figures"
    try:
        make_folder(folder)
        _check_place(folder)
        several, looks = len(read) > 1, page_looks(read)
        shown, remarks, written = _draw(combined_plots(read, looks) if several else [], folder, "")
        sections = []
        if many:
            section, paths_written = _collection_section(paths[0], folder, html, against)
            sections.append(section)
            written += paths_written
        for index, (run, look) in enumerate(zip(read, looks, strict=True), 1):
            prefix = f"{index}-{slug(run.name)}-" if several else ""
            section, paths_written = _section(run, look, prefix, folder)
            sections.append(section)
            written += paths_written
        svgs = (figure.svg for part in (shown, *(section.figures for section in sections)) for figure in part)
        swatches = (swatch(look) for own in looks for look in (*own.arms.values(), *own.families.values()))
        text = (
            environment()
            .get_template("page.html.j2")
            .render(
                title=f"{len(read)} runs" if several else sections[0].name,
                several=several,
                overview=shown,
                overview_remarks=remarks,
                overview_table=tables.runs_table(read, looks) if several else None,
                sections=sections,
                colours=css_colours((*svgs, *swatches)),
            )
        )
        write_bytes(html, text.encode(errors="replace"))
        clear_leftovers(html.name, folder, written)
    except OSError as error:
        raise TombolaError(
            f"the report cannot be written to {html} ({error.strerror}); name a folder that is writable"
        ) from error
    return ReportFiles(html, tuple(written))
