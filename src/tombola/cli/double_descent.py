"""study double-descent: test error over the size of models, through the size that fits every training example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.measurement import show_measurement
from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, add_run
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.results.double_descent import KIND_TITLES
from tombola.study.double_descent.base import Kind
from tombola.study.double_descent.kinds import KINDS, kind_of
from tombola.train.options import Options


def verbs() -> list[Verb]:
    """`study double-descent`."""
    summary = "Test error over the size of models, below and above the size that fits every training example."
    return [Verb(("study", "double-descent"), summary, _add, _run, presets=_presets)]


def _presets(given: Namespace) -> dict[str, Any]:
    """As many training examples of a large data set as the kind can do with in minutes."""
    kind = KINDS.get(given["kind"])
    few = None if kind is None else kind.few.get(given["data"])
    return {} if few is None else {"train_examples": few}


def _groups() -> Iterator[tuple[tuple[str, ...], Group]]:
    """The options of all kinds: those that the same kinds have together."""
    owners: dict[str, tuple[str, ...]] = {}
    for name, kind in KINDS.items():
        for one in fields(kind):
            owners[one.name] = (*owners.get(one.name, ()), name)
    for kinds in dict.fromkeys(owners.values()):
        source = KINDS[kinds[0]]
        others = [one.name for one in fields(source) if owners[one.name] != kinds]
        yield kinds, Group(f"kind {', '.join(kinds)}", source, skip=others)


def _add(parser: ArgumentParser) -> None:
    study = parser.add_argument_group("study")
    titles = ", ".join(f"{name} ({KIND_TITLES[name]})" for name in KINDS)
    study.add_argument("--kind", type=str, default="rff", help=f"what grows: {titles}")
    for _, group in _groups():
        group.add(parser)
    DATA.add(parser)
    add_run(parser, replicates=3, meaning="times that everything is fitted, with other draws; intervals need 3")
    MACHINE.add(parser)


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    # the cheap checks first: a wrong value is reported before torch is loaded
    kind, data = _kind(given), DataSpec(**DATA.read(given))
    machine = Options(**MACHINE.read(given))
    with loading(machine.progress):
        from tombola.study.double_descent.run import double_descent

    result = double_descent(
        kind,
        data,
        Path(given["out"]),
        seed=given["seed"],
        replicates=given["replicates"],
        options=machine,
        jobs=given["jobs"],
    )
    examples = plural(result.examples, "example")
    show_measurement(screen, result, f"double descent of {result.title} on {result.data}, {examples}")
    screen.run(result.run, result.reused)
    return result.as_dict()


def _kind(given: Namespace) -> Kind:
    """The kind with its options; an error for one that belongs to others."""
    name: str = given["kind"]
    source = kind_of(name)
    chosen: dict[str, Any] = {}
    for kinds, group in _groups():
        options, defaults = group.read(given), vars(group.source())
        if name in kinds:
            chosen |= options
        elif changed := [option for option, value in options.items() if value != defaults[option]]:
            raise TombolaError(
                f"--{changed[0]} is an option of kind {' and '.join(kinds)}, not of {name}; leave it out"
            )
    return source(**chosen)
