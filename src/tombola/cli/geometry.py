"""study connectivity and study landscape: where in the loss's landscape tickets begin, and where they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.measurement import measure
from tombola.cli.options import Group
from tombola.cli.screen import Screen
from tombola.cli.searches import DATA, MACHINE, NETWORK, add_run
from tombola.cli.studies import typed
from tombola.cli.values import import_from_here
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.methods import METHODS
from tombola.models.spec import ModelSpec
from tombola.study.connectivity.plan import Connectivity, search_arms
from tombola.study.landscape.plan import Landscape, mask_arm, search_arm
from tombola.study.setting import Setting
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.connectivity import ConnectivityResult
    from tombola.results.landscape import LandscapeResult

_PLAN = Group("study", Connectivity)
_MASKS = Group("study", Landscape)
_RECIPE = Group("training", Recipe, unset="as the preset of imp says")


def verbs() -> list[Verb]:
    """`study connectivity` and `study landscape`."""
    line = (
        "Do two trainings that part at a step end in one valley? The barrier between tickets, dense networks, controls."
    )
    before = "Does anything at initialisation tell a ticket? Statistics of many masks, against what each reaches."
    return [
        Verb(("study", "connectivity"), line, partial(_add, _PLAN, 3), _connectivity),
        Verb(("study", "landscape"), before, partial(_add, _MASKS, 1), _landscape),
    ]


def _add(plan: Group, replicates: int, parser: ArgumentParser) -> None:
    plan.add(parser)
    NETWORK.add(parser)
    DATA.add(parser)
    _RECIPE.add(parser)
    add_run(parser, replicates=replicates, meaning="repetitions of everything, each with another seed")
    MACHINE.add(parser)


def _connectivity(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    def load() -> Callable[..., ConnectivityResult]:
        from tombola.study.connectivity.run import connectivity

        return connectivity

    # the cheap checks first: a wrong value is reported before torch is loaded
    setting, plan = _setting(given), Connectivity(**_PLAN.read(given))
    setting = replace(setting, options=replace(plan, imp=_imp(plan.imp)))
    search_arms(setting)
    return measure(given, screen, "connectivity", load, setting)


def _landscape(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    def load() -> Callable[..., LandscapeResult]:
        from tombola.study.landscape.run import landscape

        return landscape

    # the cheap checks first: a wrong value is reported before torch is loaded
    setting, plan = _setting(given), Landscape(**_MASKS.read(given))
    setting = replace(setting, options=replace(plan, imp=_imp(plan.imp)))
    search_arm(setting)
    import_from_here(plan.criteria)
    for name in plan.criteria:
        mask_arm(setting, name, plan.density)
    return measure(given, screen, "landscape", load, setting)


def _imp(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of imp, read as the command line's own are."""
    return typed(Group("method", METHODS["imp"]), options, "--imp")


def _setting(given: Namespace) -> Setting:
    return Setting(ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given)), _RECIPE.read(given))
