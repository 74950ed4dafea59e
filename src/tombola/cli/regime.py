"""study regime: on which side of the interpolation threshold tickets live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.measurement import show_measurement
from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import MACHINE, add_room
from tombola.cli.tickets import trusted
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.train.options import Options

_DATA = Group(
    "data",
    DataSpec,
    {"name": "data", "root": "data_root", "args": "data_args"},
    skip=("augment",),  # nothing is trained
    unset="as the first ticket says",
)


def verbs() -> list[Verb]:
    """`study regime`."""
    summary = "Which regime do tickets live in: can they still fit every training example, how far did they move?"
    return [Verb(("study", "regime"), summary, _add, _run)]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "tickets",
        type=str,
        nargs="+",
        metavar="TICKET",
        help="a ticket file; a run directory, for all tickets in it; or a folder of runs, for those of all of them",
    )
    study = parser.add_argument_group("study")
    study.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="the training error that is nearly 0: the threshold is the fewest weights up to which it is no larger",
    )
    study.add_argument(
        "--trusted",
        type=list[str] | str,
        default=[],
        help="import prefixes that tickets may name their network under, e.g. torchvision.models",
    )
    add_room(parser)
    _DATA.add(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--jobs", type=int, default=1, help="processes that share the tickets")
    run.add_argument("--out", type=str, default="runs", help="folder in which the run gets its own directory")
    MACHINE.add(parser)


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    # the cheap checks first: a wrong value is reported before torch is loaded
    fields, machine = _DATA.read(given), Options(**MACHINE.read(given))
    named = DataSpec(**{"name": DataSpec.name, **fields})
    with loading(machine.progress):
        from tombola.study.recorded import data_of
        from tombola.study.regime.files import read_tickets
        from tombola.study.regime.run import Asked, run_regime

    tickets = read_tickets(given["tickets"], max_weights=given["max_weights"])
    if "name" not in fields:
        named = replace(data_of(tickets[0].ticket, named.root), **fields)
    asked = Asked(
        tickets,
        named,
        given["tolerance"],
        trusted=trusted(given),
        options=machine,
        data_given=not set(fields) <= {"root", "in_memory_limit", "workers"},
    )
    result = run_regime(asked, Path(given["out"]), given["jobs"])
    show_measurement(screen, result, f"regime of tickets on {result.data}")
    screen.run(result.run, result.reused)
    return result.as_dict()
