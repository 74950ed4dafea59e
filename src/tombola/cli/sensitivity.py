"""sensitivity: what each layer of a trained network costs, pruned alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import listed, several
from tombola.cli.pruning import MODEL, NETWORK, add_layers_and_samples, started
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec

_SETTINGS = ("densities", "measure", "criterion", "pattern", "samples", "seed")


def verbs() -> list[Verb]:
    """`sensitivity`."""
    summary = "Accuracy or output error of a trained network against the density of each layer, pruned alone."
    return [Verb(("sensitivity",), summary, _add, _run)]


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=str, help=MODEL)
    NETWORK.add(parser)
    DATA.add(parser)
    group = parser.add_argument_group("sensitivity")
    group.add_argument(
        "--densities",
        type=several(float),
        default=[0.5, 0.3, 0.2, 0.1, 0.05],
        help="fractions of a layer's weights kept",
    )
    group.add_argument(
        "--measure", type=str, default="accuracy", help="accuracy (on the validation split) or output_error"
    )
    group.add_argument("--criterion", type=str, default="magnitude", help="a criterion's name or import path")
    group.add_argument("--pattern", type=str, default="element", help="element, block:V, inputs:V, N:M or channel")
    add_layers_and_samples(group)
    group.add_argument("--seed", type=int, default=0, help="draws the examples; a criterion that draws derives from it")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder for sensitivity.json and sensitivity.svg (null: none)"
    )


def _run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    with loading(None):
        from tombola.prune import sensitivity
        from tombola.report.sensitivity import sensitivity_figure
        from tombola.report.style import svg_bytes
        from tombola.runs.atomic import check_folder, make_folder, write_bytes, write_json
        from tombola.runs.progress import show_progress
        from tombola.search.request import loaded

    if given["out"] is not None:
        check_folder(Path(given["out"]))
    splits = loaded(DataSpec(**DATA.read(given)))
    model = started(given, splits).network().eval()
    settings = {name: given[name] for name in _SETTINGS} | {"densities": listed(given["densities"])}
    with show_progress() as bar:
        found = sensitivity(
            model, splits, include=listed(given["include"]), exclude=listed(given["exclude"]), progress=bar, **settings
        )
    screen.line(str(found))
    if given["out"] is not None:
        out = Path(given["out"])
        make_folder(out)
        write_json(out / "sensitivity.json", found.as_dict())
        write_bytes(out / "sensitivity.svg", svg_bytes(sensitivity_figure(found)))
        screen.line(f"wrote sensitivity.json and sensitivity.svg to {out}")
    return {**found.as_dict(), "out": given["out"]}
