"""study overlap and study initialisations: an IMP ticket and a supermask of one network, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.effect import changed, refuse
from tombola.cli.measurement import measure
from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, NETWORK, add_room, add_run, show_denominator
from tombola.cli.studies import typed
from tombola.cli.values import new_parser
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.formats import plural
from tombola.methods import METHODS
from tombola.models.spec import ModelSpec
from tombola.study.initialisations.plan import Initialisations, init_arms
from tombola.study.mask_pair import MaskPair, pair_arms
from tombola.study.setting import Setting
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.initialisations import InitialisationsResult
    from tombola.results.overlap import OverlapResult, TicketPair

Pair = TypeVar("Pair", bound=MaskPair)
_PAIR = Group("study", MaskPair)
_RECIPE = Group("training, of both searches", Recipe, unset="as the search's own recipe or its preset says")
_ACROSS = Group("study", Initialisations)
_UNDRAWN = Group("network", ModelSpec, NETWORK.names, skip=("init", "checkpoint", "checkpoint_without"))
_METHODS = {"imp": "imp", "supermask": "edge-popup"}


def verbs() -> list[Verb]:
    """`study overlap` and `study initialisations`."""
    summary = (
        "Do an IMP ticket and a supermask of one network and density keep the same weights? Overlap, cross-training."
    )
    across = (
        "The same two searches across initialisation schemes and seeds: how alike are the masks, how good the tickets?"
    )
    return [
        Verb(("study", "overlap"), summary, _add, _run),
        Verb(("study", "initialisations"), across, _add_initialisations, _run_initialisations),
    ]


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
    alone = ("tickets", "trusted", "max_weights")
    given_options = changed(given, _add, new_parser())
    if given["tickets"] is None:
        refuse([name for name in given_options if name in alone], "it is of --tickets A B; leave it out, or name them")
    else:
        others = [name for name in given_options if name not in alone]
        refuse(others, "--tickets compares two tickets as they are, and trains nothing; leave it out")
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
    arms = pair_arms(Setting(model, data, _RECIPE.read(given), _typed(MaskPair(**_PAIR.read(given)))))
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


def _add_initialisations(parser: ArgumentParser) -> None:
    _ACROSS.add(parser)
    _UNDRAWN.add(parser)
    DATA.add(parser)
    _RECIPE.add(parser)
    add_run(parser, replicates=3, meaning="seeds under which everything is done; intervals need 3")
    MACHINE.add(parser)


def _run_initialisations(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    # the cheap checks first: a wrong value is reported before torch is loaded
    model, data, recipe = ModelSpec(**_UNDRAWN.read(given)), DataSpec(**DATA.read(given)), _RECIPE.read(given)
    plan = _typed(Initialisations(**_ACROSS.read(given)))
    setting = Setting(model, data, recipe, plan)
    init_arms(setting)

    def load() -> Callable[..., InitialisationsResult]:
        from tombola.study.initialisations.run import initialisations

        return initialisations

    return measure(given, screen, "initialisations", load, setting)


def _typed(pair: Pair) -> Pair:
    """The study's options, the mappings among them read as the command line's own options are."""
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
