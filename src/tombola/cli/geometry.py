"""study connectivity: is what two trainings from one step find the same valley?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, NETWORK, add_run, show_denominator
from tombola.cli.studies import typed
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.formats import plural
from tombola.methods import METHODS
from tombola.models.spec import ModelSpec
from tombola.study.connectivity_plan import Connectivity, search_arms
from tombola.study.setting import Setting
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.measurement import Measurement

_PLAN = Group("study", Connectivity)
_RECIPE = Group("training", Recipe, unset="as the preset of imp says")


def verbs() -> list[Verb]:
    """`study connectivity`."""
    line = (
        "Do two trainings that part at a step end in one valley? The barrier between tickets, dense networks, controls."
    )
    return [Verb(("study", "connectivity"), line, _add, _connectivity)]


def _add(parser: ArgumentParser) -> None:
    _PLAN.add(parser)
    NETWORK.add(parser)
    DATA.add(parser)
    _RECIPE.add(parser)
    add_run(parser, replicates=3, meaning="repetitions of everything, each with another seed; intervals need 3")
    MACHINE.add(parser)


def _connectivity(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    # the cheap checks first: a wrong value is reported before torch is loaded
    model, data = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given))
    plan = Connectivity(**_PLAN.read(given))
    plan = replace(plan, imp=typed(Group("method", METHODS["imp"]), plan.imp, "--imp"))
    search_arms(Setting(model, data, _RECIPE.read(given), plan))
    machine = Options(**MACHINE.read(given))
    with loading(machine.progress):
        from tombola.study.connectivity import connectivity

    result = connectivity(
        model,
        data,
        plan,
        recipe=_RECIPE.read(given),
        out=Path(given["out"]),
        seed=given["seed"],
        replicates=given["replicates"],
        options=machine,
        jobs=given["jobs"],
    )
    show_measurement(screen, result, f"connectivity on {result.data} with {result.model}")
    show_denominator(screen, result.parameters)
    screen.run(result.run, result.reused)
    return result.as_dict()


def show_measurement(screen: Screen, result: Measurement, title: str) -> None:
    """The tables of a result, and what it says in words."""
    from tombola.report import measured

    over = f"{'means over ' if result.replicates > 1 else ''}{plural(result.replicates, 'replicate')}"
    screen.line(f"{title}, {over}")
    screen.tables(measured.tables(result))
    for line in filter(None, (result.sentence, result.intervals, result.note)):
        screen.line(line)
