"""bench --what_if: what zeros would gain in a network, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import listed
from tombola.cli.screen import Screen, loading
from tombola.cli.subjects import subject
from tombola.errors import TombolaError
from tombola.formats import MISSING, density, multiple, plural, quantity

if TYPE_CHECKING:
    from tombola.bench.bench import Timing
    from tombola.deploy.report import DeployedLayer
    from tombola.deploy.what_if import Outcome, WhatIf

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
        _show(screen, given["ticket"], found[-1])
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


# ---- tables ------------------------------------------------------------------------------------------------


def _show(screen: Screen, name: str, found: WhatIf) -> None:
    screen.line(f"{name} at batch {found.batch}, {plural(found.threads, 'thread')}: nothing trained, masks at random")
    baselines = _shown(found.baselines)
    head = ("network", "ms", "quartiles", *(f"× {engine}" for engine in baselines), "weights", "FLOP", "")
    blanks = [MISSING] * len(baselines)
    rows = [
        [f"dense, {time.engine}", *_ms(time), *blanks, MISSING, MISSING, time.missing or ""] for time in found.baselines
    ]
    rows += [_row(outcome, baselines) for outcome in found.outcomes]
    screen.table(head, rows, left=(0, len(head) - 1))
    screen.line(
        f"median of {plural(found.rounds, 'alternating round')}; dense weights {quantity(found.bytes, 'B')}, "
        f"{quantity(found.flops, 'FLOP')} an input; int8 and zeros both cost accuracy, which is not measured here"
    )
    if small := [outcome.case.density for outcome in found.outcomes if 0.5 < outcome.case.density < 1]:
        kept, pruned = (density(share).replace(".00", "") for share in (max(small), 1 - max(small)))
        given, other = f"{max(small):g}", f"{1 - max(small):.6g}"
        screen.line(
            f"density is the fraction of weights kept: {given} leaves {pruned} zeros; for {kept} zeros give {other}"
        )
    _show_layers(screen, [outcome for outcome in found.outcomes if outcome.timing is not None])


def _shown(times: Sequence[Timing]) -> list[str]:
    """What gains are shown over: eager, the fastest float32 engine, and int8."""
    from tombola.bench.engines import DENSE, INT8

    medians = {time.engine: time.median for time in times if time.median is not None}
    dense = [engine for engine in DENSE if engine in medians]
    fastest = min(dense, key=medians.__getitem__, default="")
    return [engine for engine in medians if engine in ("eager", fastest, INT8)]


def _row(outcome: Outcome, baselines: Sequence[str]) -> list[str]:
    gains = {gain.baseline: gain for gain in outcome.gains}
    over = [multiple(gains[name].ratio) if name in gains else MISSING for name in baselines]
    sizes = (quantity(outcome.bytes, "B"), quantity(outcome.flops, "FLOP"))
    return [str(outcome.case), *_ms(outcome.timing), *over, *sizes, outcome.missing or ""]


def _ms(time: Timing | None) -> tuple[str, str]:
    if time is None or time.median is None or time.low is None or time.high is None:
        return MISSING, MISSING
    return f"{time.median:.3f}", f"{time.low:.3f} to {time.high:.3f}"


def _show_layers(screen: Screen, outcomes: Sequence[Outcome]) -> None:
    """Layer by layer, how many times as fast as dense each is alone."""
    layers = {layer.name: layer for outcome in reversed(outcomes) for layer in outcome.layers}
    if layers:
        alone = [{layer.name: layer for layer in outcome.layers} for outcome in outcomes]
        rows = [
            [name, "x".join(map(str, layer.shape)), _milliseconds(layer), *(_gain(one.get(name)) for one in alone)]
            for name, layer in layers.items()
        ]
        screen.table(("layer", "weight", "dense ms", *(str(outcome.case) for outcome in outcomes)), rows, left=(0, 1))
        screen.line(
            "each layer alone, in its fastest round: torch over sparse kernels; the whole has what lies between too"
        )
    for name, reason in (outcomes[0].left or {}).items():
        screen.line(f"stays with torch: {name}: {reason}")


def _milliseconds(layer: DeployedLayer) -> str:
    return MISSING if layer.dense is None else f"{1e3 * layer.dense:.3f}"


def _gain(layer: DeployedLayer | None) -> str:
    if layer is None or layer.native is None or layer.dense is None:
        return MISSING
    return multiple(layer.dense / layer.native)
