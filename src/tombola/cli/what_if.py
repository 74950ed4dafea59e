"""bench --what_if: what zeros would gain in a network, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import listed
from tombola.cli.screen import Screen, loading
from tombola.cli.subjects import subject
from tombola.errors import TombolaError

_OWN: Mapping[str, Any] = {"seconds": None, "seed": 0, "include": [], "exclude": []}
"""The options that only --what_if reads, with their defaults."""


def add_what_if(parser: ArgumentParser) -> None:
    """The options of --what_if."""
    group = parser.add_argument_group("what if it were sparse")
    group.add_argument(
        "--what_if",
        type=str | float | list[str | float] | None,
        default=None,
        help="densities (fraction of weights KEPT: 0.1 is 90 %% zeros) and patterns, e.g. 0.1,0.05,block:4: masks are "
        "drawn at random, nothing is trained",
    )
    group.add_argument(
        "--seconds", type=float | None, default=_OWN["seconds"], help="begin no case that would end later (null: all)"
    )
    group.add_argument("--seed", type=int, default=_OWN["seed"], help="of the masks")
    for option, what in (("include", "further parameters that get zeros"), ("exclude", "weights that stay dense")):
        group.add_argument(
            f"--{option}", type=list[str] | str, default=_OWN[option], help=f"names of {what}, as *.bias"
        )


def check_what_if_unset(given: Namespace) -> None:
    """TombolaError for an option that only --what_if reads."""
    for option, unset in _OWN.items():
        if given[option] != unset:
            raise TombolaError(f"--{option} goes with --what_if; give densities, e.g. --what_if 0.1,0.05")


def run_what_if(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    """Measure and show what was asked, batch size by batch size."""
    with loading(None):
        import torch

        from tombola.deploy.what_if import BASELINES, cases_of, what_if
        from tombola.deploy.what_if_tables import blocks

    cases = cases_of(given["what_if"])
    about = subject(given)
    found = []
    for batch in batch_sizes(1 if given["batch"] is None else given["batch"]):
        found.append(
            what_if(
                about.network,
                about.inputs(batch),
                cases=cases,
                threads=given["threads"],
                engines=texts(given["engines"]) or BASELINES,
                rounds=given["rounds"],
                seconds=given["seconds"],
                include=texts(given["include"]),
                exclude=texts(given["exclude"]),
                generator=torch.Generator("cpu").manual_seed(given["seed"]),
            )
        )
        screen.line(f"{given['ticket']}, nothing trained, masks at random")
        for block in blocks(found[-1]):
            if isinstance(block, str):
                screen.line(block)
            else:
                screen.table(block.head, block.rows, left=block.left)
    return {"model": given["ticket"], "recipe": None, "what_if": [one.as_dict() for one in found]}


def texts(given: Sequence[str] | str | None) -> tuple[str, ...]:
    """One text, several or none as typed, as several."""
    return tuple(listed(given) or ())


def batch_sizes(given: Any) -> list[int]:
    """1,64 as typed, [1, 64] or 1."""
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        sizes = [int(word) for word in words]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise TombolaError(f"--batch is {given!r}; give sizes of 1 or more, e.g. 1,64")
    return sizes
