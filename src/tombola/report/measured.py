"""How the results of studies that compare no arms are shown: figures, tables and key numbers by the type of result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tombola.report.connectivity import connectivity_numbers, connectivity_plots, connectivity_tables
from tombola.report.descent_plots import descent_plots
from tombola.report.descent_tables import descent_numbers, descent_tables
from tombola.report.initialisations import init_numbers, init_plots, init_tables
from tombola.report.landscape import landscape_numbers, landscape_plots, landscape_tables
from tombola.report.numbers import Number
from tombola.report.plot import Shown
from tombola.report.regime_page import regime_numbers, regime_plots, regime_tables
from tombola.report.tables import Table
from tombola.results.connectivity import ConnectivityResult
from tombola.results.double_descent import DescentResult
from tombola.results.initialisations import InitialisationsResult
from tombola.results.landscape import LandscapeResult
from tombola.results.measurement import Measurement
from tombola.results.regime import RegimeResult


@dataclass(frozen=True)
class _Page:
    """What makes the parts of a page of one type of result."""

    plots: Callable[[Any], list[Shown]]
    tables: Callable[[Any], list[Table]]
    numbers: Callable[[Any], tuple[Number, ...]]


PAGES: Mapping[type[Measurement], _Page] = {
    ConnectivityResult: _Page(connectivity_plots, connectivity_tables, connectivity_numbers),
    InitialisationsResult: _Page(init_plots, init_tables, init_numbers),
    RegimeResult: _Page(regime_plots, regime_tables, regime_numbers),
    DescentResult: _Page(descent_plots, descent_tables, descent_numbers),
    LandscapeResult: _Page(landscape_plots, landscape_tables, landscape_numbers),
}
"""For every type in `read.MEASUREMENTS`."""


def plots(result: Measurement) -> list[Shown]:
    """The figures of a result."""
    return PAGES[type(result)].plots(result)


def tables(result: Measurement) -> list[Table]:
    """Its tables."""
    return PAGES[type(result)].tables(result)


def numbers(result: Measurement) -> tuple[Number, ...]:
    """The few numbers that a reader wants first."""
    return PAGES[type(result)].numbers(result)
