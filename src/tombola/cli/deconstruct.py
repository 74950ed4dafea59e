"""study deconstruct: criteria, kept actions and pruned actions, each with each, against density."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, NETWORK, RECIPE, add_run
from tombola.cli.studies import show_comparison
from tombola.cli.values import import_from_here
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.search.presets import preset
from tombola.study.grid import Grid
from tombola.train.options import Options
from tombola.train.recipe import Recipe

_GRID = Group("study", Grid)
_PRUNING = Group("method imp", IterativePruning, skip=("criterion", "kept_action", "pruned_action"))


def verbs() -> list[Verb]:
    """`study deconstruct`."""
    line = "Take tickets apart: each criterion with each kept and pruned action, accuracy against density."
    return [Verb(("study", "deconstruct"), line, _add, _run, presets=imp_presets)]


def imp_presets(given: Namespace) -> dict[str, Any]:
    """The settings of imp for the network and data, as defaults of the options."""
    named = preset(IterativePruning, given["model"], given["data"])
    return {**RECIPE.defaults(named.recipe), **_PRUNING.defaults(named.method)}


def _add(parser: ArgumentParser) -> None:
    _GRID.add(parser)
    NETWORK.add(parser)
    DATA.add(parser)
    _PRUNING.add(parser)
    RECIPE.add(parser)
    add_run(parser, replicates=3, meaning="times that every combination is tried, with other seeds; intervals need 3")
    MACHINE.add(parser)


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    # the cheap checks first: a wrong value is reported before torch is loaded
    model, data, grid = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given)), Grid(**_GRID.read(given))
    pruning, recipe = IterativePruning(**_PRUNING.read(given)), Recipe(**RECIPE.read(given))
    machine = Options(**MACHINE.read(given))
    import_from_here(grid.criteria)
    with loading(machine.progress):
        from tombola.study.deconstruct import run_deconstruction

    result = run_deconstruction(
        grid,
        model,
        data,
        Path(given["out"]),
        pruning=pruning,
        recipe=recipe,
        seed=given["seed"],
        replicates=given["replicates"],
        options=machine,
        jobs=given["jobs"],
    )
    show_comparison(screen, result)
    return result.as_dict()
