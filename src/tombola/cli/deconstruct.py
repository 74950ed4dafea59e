"""study deconstruct and study untrained: what makes a ticket, and how good its mask is alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tombola.study.grid import PLANNED, Grid, MaskGrid
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.comparison import ComparisonResult

_GRID = Group("study", Grid)
_NOT_PLANNED = [one.name for one in fields(IterativePruning) if one.name not in PLANNED]
_LOOP = ("rewind", "one_shot", "retrain")
_PRUNING = Group("method imp", IterativePruning, skip=[name for name in _NOT_PLANNED if name not in _LOOP])


_MASKS = Group("study", MaskGrid)
_DRAWING = Group("method imp", IterativePruning, skip=_NOT_PLANNED)
_Run = Callable[..., "ComparisonResult"]


def verbs() -> list[Verb]:
    """`study deconstruct` and `study untrained`."""
    taken_apart = "Take tickets apart: each criterion with each kept and pruned action, accuracy against density."
    alone = "Test masks alone, on initial weights and on signed constants: nothing is trained after they are drawn."
    return [
        Verb(
            ("study", "deconstruct"),
            taken_apart,
            _adding(_GRID, _PRUNING),
            _running(_GRID, _PRUNING, _deconstruct),
            presets=_presets(_PRUNING),
        ),
        Verb(
            ("study", "untrained"),
            alone,
            _adding(_MASKS, _DRAWING),
            _running(_MASKS, _DRAWING, _untrained),
            presets=_presets(_DRAWING),
        ),
    ]


def _presets(pruning: Group) -> Callable[[Namespace], Mapping[str, Any]]:
    """The settings of imp for the network and data, as defaults of the options."""

    def defaults(given: Namespace) -> dict[str, Any]:
        named = preset(IterativePruning, given["model"], given["data"])
        return {**RECIPE.defaults(named.recipe), **pruning.defaults(named.method)}

    return defaults


def _adding(grid: Group, pruning: Group) -> Callable[[ArgumentParser], None]:
    def add(parser: ArgumentParser) -> None:
        grid.add(parser)
        NETWORK.add(parser)
        DATA.add(parser)
        pruning.add(parser)
        RECIPE.add(parser)
        add_run(parser, replicates=3, meaning="times that everything is tried, with other seeds; intervals need 3")
        MACHINE.add(parser)

    return add


def _running(
    grid: Group, pruning: Group, study: Callable[[], _Run]
) -> Callable[[Namespace, Screen], Mapping[str, Any]]:
    def run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
        # the cheap checks first: a wrong value is reported before torch is loaded
        model, data = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given))
        crossed = grid.source(**grid.read(given))
        method, recipe = IterativePruning(**pruning.read(given)), Recipe(**RECIPE.read(given))
        machine = Options(**MACHINE.read(given))
        import_from_here([name for names in vars(crossed).values() for name in names or () if isinstance(name, str)])
        with loading(machine.progress):
            function = study()
        result = function(
            crossed,
            model,
            data,
            Path(given["out"]),
            pruning=method,
            recipe=recipe,
            seed=given["seed"],
            replicates=given["replicates"],
            options=machine,
            jobs=given["jobs"],
        )
        show_comparison(screen, result)
        return result.as_dict()

    return run


def _deconstruct() -> _Run:
    from tombola.study.deconstruct import run_deconstruction

    return run_deconstruction


def _untrained() -> _Run:
    from tombola.study.deconstruct import run_untrained

    return run_untrained
