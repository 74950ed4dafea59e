"""study overlap: an IMP ticket and a supermask of the same network, or any two tickets, weight by weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, NETWORK, add_room, add_run, show_denominator
from tombola.cli.studies import typed
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.formats import Fixed, Unit, plural
from tombola.methods import METHODS
from tombola.models.spec import ModelSpec
from tombola.study.mask_pair import MaskPair, pair_arms
from tombola.study.setting import Setting
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.overlap import OverlapResult, TicketPair

_SHARE, _RATIO = Unit("accuracy"), Fixed("ratio", 3)
_PAIR = Group("study", MaskPair)
_RECIPE = Group("training, of both searches", Recipe, unset="as the search's own recipe or its preset says")
_METHODS = {"imp": "imp", "supermask": "edge-popup"}


def verbs() -> list[Verb]:
    """`study overlap`."""
    summary = (
        "Do an IMP ticket and a supermask of one network and density keep the same weights? Overlap, cross-training."
    )
    return [Verb(("study", "overlap"), summary, _add, _run)]


def _add(parser: ArgumentParser) -> None:
    given = parser.add_argument_group("tickets that there are already")
    given.add_argument(
        "--tickets",
        type=str,
        nargs=2,
        default=None,
        metavar=("A", "B"),
        help="two ticket files of one network: compare just their masks, and train nothing",
    )
    given.add_argument(
        "--trusted",
        type=list[str] | str,
        default=[],
        help="import prefixes that those tickets may name their network under, e.g. torchvision.models",
    )
    add_room(parser)
    _PAIR.add(parser)
    NETWORK.add(parser)
    DATA.add(parser)
    _RECIPE.add(parser)
    add_run(parser, replicates=3, meaning="repetitions, each with another seed; intervals need 3")
    MACHINE.add(parser)
    parser.set_defaults({"init": "kaiming_normal"})  # both masks choose among the same weights, of many sizes


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    if given["tickets"] is not None:
        with loading(None):
            from tombola.study.mask_overlap import compare_files

        trusted = given["trusted"]
        compared = compare_files(
            *given["tickets"],
            trusted=(trusted,) if isinstance(trusted, str) else trusted,
            max_weights=given["max_weights"],
        )
        show_pair(screen, compared)
        return compared.as_dict()
    # the cheap checks first: a wrong value is reported before torch is loaded
    model, data = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given))
    arms = pair_arms(Setting(model, data, _RECIPE.read(given), _pair(given)))
    machine = Options(**MACHINE.read(given))
    with loading(machine.progress):
        from tombola.study.cross_training import run_overlap

    result = run_overlap(
        arms,
        model,
        data,
        Path(given["out"]),
        seed=given["seed"],
        replicates=given["replicates"],
        options=machine,
        jobs=given["jobs"],
    )
    show_overlap(screen, result)
    return result.as_dict()


def _pair(given: Namespace) -> MaskPair:
    """The study's options, the mappings among them read as the command line's own options are."""
    pair = MaskPair(**_PAIR.read(given))
    read: dict[str, Any] = {}
    for name, method in _METHODS.items():
        read[name] = typed(Group("method", METHODS[method]), getattr(pair, name), f"--{name}")
        recipe = f"{name}_recipe"
        read[recipe] = typed(Group("recipe", Recipe), getattr(pair, recipe), f"--{recipe}")
    return replace(pair, **read)


def show_overlap(screen: Screen, result: OverlapResult) -> None:
    """How the masks do untrained and trained; what they share, layer by layer; which weights each keeps."""
    from tombola.report.looks import Looks
    from tombola.report.overlap_tables import overlap_tables

    over = f"{'means over ' if result.replicates > 1 else ''}{plural(result.replicates, 'replicate')}"
    screen.line(f"overlap on {result.data} with {result.model}, {over}")
    screen.tables(overlap_tables(result, Looks({})))
    show_denominator(screen, result.parameters)
    for line in filter(None, (result.sentence, result.intervals, result.note)):
        screen.line(line)
    screen.run(result.run, result.reused)


def show_pair(screen: Screen, result: TicketPair) -> None:
    """Overlap of two tickets, layer by layer, and which weights each keeps."""
    from tombola.report.looks import Looks
    from tombola.report.overlap_tables import mask_tables

    names = ("A", "B")
    for name, file in zip(names, result.names, strict=True):
        screen.line(f"{name}  {file}")
    if not result.same_origin:
        screen.line("The tickets start from different weights: signs and sizes are those of each one's own.")
    screen.tables(mask_tables(result, names, result.replicates, Looks({})))
