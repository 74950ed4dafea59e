"""What a network would gain here if it were sparse, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola.bench.bench import Speedup, Timing, check_bench, flop_counts, prepare, speedup, timing
from tombola.bench.engines import DENSE, INT8, Workload
from tombola.bench.timing import WALL, Clock
from tombola.compact.checks import plain_tensors
from tombola.compact.effective import plain_copy
from tombola.deploy.deploy import Deployed, deploy
from tombola.deploy.report import DeployedLayer
from tombola.deploy.what_if_tables import as_text
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import density as in_percent
from tombola.machine.cores import held_to_cores
from tombola.parameters import prunable
from tombola.runs.jobs import limit_threads
from tombola.select.checks import checked_density
from tombola.select.context import Context
from tombola.select.criteria import random
from tombola.select.patterns import NM, parse_pattern
from tombola.select.select import select

BASELINES = (*(name for name in DENSE if name != "compiled"), INT8)
"""The engines that are timed beside unless others are named: compiling takes longer than all others together."""


@dataclass(frozen=True)
class Case:
    """A density, the fraction of prunable weights that is kept, and the pattern in which."""

    density: float
    pattern: str = "element"

    def __str__(self) -> str:
        zeros = f"{in_percent(1 - self.density).removesuffix(' %').rstrip('0').rstrip('.') or '0'} % zeros"
        return zeros if self.pattern == "element" else f"{zeros}, {self.pattern}"


@dataclass(frozen=True)
class Outcome:
    """What a case would give: times of the deployed network, or why there are none.

    `density`: of prunable weights, as drawn. `gains`: over every baseline that was timed. `layers`: those that have
    kernels, with the seconds of each alone, natively and dense. `left`: what stays in torch, with the reason. `bytes`:
    of the deployed network's weights. `flops`: of one example, at kept weights. `seconds`: that deploying took.
    """

    case: Case
    density: float | None = None
    timing: Timing | None = None
    gains: tuple[Speedup, ...] = ()
    layers: tuple[DeployedLayer, ...] = ()
    left: Mapping[str, str] | None = None
    bytes: int | None = None
    flops: int | None = None
    seconds: float | None = None
    missing: str | None = None


@dataclass(frozen=True)
class WhatIf:
    """What a network would gain on this machine, by case, beside dense engines.

    `batch`: of the example. `baselines`: the dense network's times. `flops`: of the dense network for one example,
    `bytes`: of its parameters.
    """

    threads: int
    rounds: int
    batch: int
    baselines: tuple[Timing, ...]
    outcomes: tuple[Outcome, ...]
    flops: int
    bytes: int

    def __str__(self) -> str:
        return as_text(self)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def cases_of(given: Sequence[str | float | Case] | str | float | Case) -> tuple[Case, ...]:
    """Densities and patterns as cases: each density as single weights, then in each pattern.

    An N:M pattern fixes its density, and is one case.

    Raises:
        TombolaError: a density outside (0, 1], an unknown pattern, or a pattern without a density.

    >>> [str(case) for case in cases_of([0.1, 0.05, "block:4", "2:4"])]
    ['90 % zeros', '95 % zeros', '90 % zeros, block:4', '95 % zeros, block:4', '50 % zeros, 2:4']
    """
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    cases = [word for word in words if isinstance(word, Case)]
    texts = [str(word).strip() for word in words if not isinstance(word, Case)]
    densities = [number for number in map(_number, texts) if number is not None]
    patterns = [parse_pattern(text) for text in texts if _number(text) is None]
    free = [str(pattern) for pattern in patterns if not isinstance(pattern, NM)]
    if free and not densities:
        raise TombolaError(f"pattern {free[0]} needs a density, the fraction of weights kept; e.g. 0.1,{free[0]}")
    for density in densities:
        checked_density(density)
    cases += [Case(density, pattern) for pattern in dict.fromkeys(["element", *free]) for density in densities]
    cases += [Case(pattern.n / pattern.m, str(pattern)) for pattern in patterns if isinstance(pattern, NM)]
    if not cases:
        raise TombolaError("no density is given; give fractions of weights kept, e.g. 0.1,0.05 (90 and 95 % zeros)")
    return tuple(dict.fromkeys(cases))


@checked
def what_if(
    model: nn.Module,
    *example: Tensor,
    cases: Sequence[str | float | Case] | str | float | Case,
    threads: int | None = None,
    engines: Sequence[str] = BASELINES,
    rounds: int = 9,
    seconds: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    generator: torch.Generator | None = None,
    clock: Clock = WALL,
) -> WhatIf:
    """Deploy copies of a network with zeros at random places, and time them beside the dense network's engines.

    Speed depends on how many weights are zero and where, hardly on their values, so that an untrained network will do.
    What the zeros cost in accuracy, or int8, is not asked here.

    Args:
        model: any network on the CPU; it is not changed.
        example: its inputs as tensors, the batch first, of the shape and batch size to be fast for.
        cases: densities (fraction of prunable weights kept: 0.1 is 90 % zeros) and patterns, as `cases_of` reads them.
        threads: of the CPU; None: as torch is set.
        engines: the baselines, of `tombola.bench.engines.ENGINES`.
        rounds: how often each is timed.
        seconds: a limit for deploying: no case is begun that would end later, by the longest so far; the first is.
        include: patterns of names of further parameters that get zeros, as of `tb.prunable`.
        exclude: patterns of names that stay dense, such as the last layer's.
        generator: draws the places; None: one of seed 0. Masks of one pattern nest.
        clock: what says how long runs take.

    Returns:
        Times, gains over each baseline, and layers. A case that was not reached, or cannot be, says why.

    Raises:
        TombolaError: a bad case, engine, pattern or number of rounds, nothing prunable, or a network that cannot be
            copied or run on the example.
    """
    wanted = cases_of(cases)
    check_bench(engines, rounds)
    if seconds is not None and not seconds > 0:
        raise TombolaError(f"seconds is {seconds}; give a time above 0")
    count = held_to_cores("threads", torch.get_num_threads() if threads is None else threads)
    draws = torch.Generator("cpu").manual_seed(0) if generator is None else generator
    if not example:
        raise TombolaError("no example is given; give inputs as the network takes them, the batch first")
    with plain_tensors():
        dense = plain_copy(model, example)
        weights = {name: one.detach() for name, one in prunable(dense, include, exclude).items()}
        if not weights:
            raise TombolaError("the network has no prunable weights left; exclude fewer")
        scores = random(Context(weights, weights, generator=draws))
        outcomes, deployed = _deployed(dense, scores, wanted, example, count, seconds, clock)
        return _timed(dense, outcomes, deployed, example, count, engines, rounds, clock)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _deployed(
    dense: nn.Module,
    scores: Mapping[str, Tensor],
    cases: Sequence[Case],
    example: Sequence[Tensor],
    threads: int,
    seconds: float | None,
    clock: Clock,
) -> tuple[list[Outcome], list[Deployed | None]]:
    """Cases in their order, deployed but not yet timed; None for those that are not reached."""
    started, longest = time.monotonic(), 0.0
    outcomes: list[Outcome] = []
    deployed: list[Deployed | None] = []
    for case in cases:
        if seconds is not None and deployed and time.monotonic() - started + longest > seconds:
            outcomes.append(Outcome(case, missing=f"not reached within {seconds:g} s"))
            deployed.append(None)
            continue
        outcome, fast = _one(dense, scores, case, example, threads, clock)
        longest = max(longest, outcome.seconds or 0.0)
        outcomes.append(outcome)
        deployed.append(fast)
    return outcomes, deployed


def _one(
    dense: nn.Module, scores: Mapping[str, Tensor], case: Case, example: Sequence[Tensor], threads: int, clock: Clock
) -> tuple[Outcome, Deployed]:
    begun = time.monotonic()
    sparse = plain_copy(dense, example)
    mask = select(scores, pattern=case.pattern, counts=_counts(scores, case))
    mask.apply_(sparse)
    fast = deploy(sparse, *example, threads=threads, keep_compacted=False, engines=(), clock=clock)
    layers = _merged(layer for part in fast.report.parts for layer in part.layers)
    outcome = Outcome(
        case,
        mask.density,
        layers=layers,
        left=fast.report.dense,
        bytes=fast.nbytes,
        flops=flop_counts(sparse, example)[1],
        seconds=time.monotonic() - begun,
    )
    return outcome, fast


def _timed(
    dense: nn.Module,
    outcomes: Sequence[Outcome],
    deployed: Sequence[Deployed | None],
    example: Sequence[Tensor],
    threads: int,
    engines: Sequence[str],
    rounds: int,
    clock: Clock,
) -> WhatIf:
    """All that was deployed and the engines, in alternation."""
    batch = len(example[0])
    with limit_threads(threads, exclusive=True), torch.inference_mode():
        runs, missing = prepare(Workload(dense, tuple(example), threads), engines)
        ours = {str(index): partial(fast, *example) for index, fast in enumerate(deployed) if fast is not None}
        times = clock.measure({**runs, **ours}, rounds=rounds, threads=threads)

    def timed(index: int, outcome: Outcome) -> Outcome:
        own = times.get(str(index))
        if own is None:
            return outcome
        name = str(outcome.case)
        gains = tuple(speedup(batch, engine, times[engine], own) for engine in runs)
        return replace(outcome, timing=timing(name, batch, {name: own}, {}), gains=gains)

    return WhatIf(
        threads=threads,
        rounds=rounds,
        batch=batch,
        baselines=tuple(timing(name, batch, times, missing) for name in engines),
        outcomes=tuple(timed(index, outcome) for index, outcome in enumerate(outcomes)),
        flops=flop_counts(dense, example)[0],
        bytes=sum(one.numel() * one.element_size() for one in dense.parameters()),
    )


def _counts(scores: Mapping[str, Tensor], case: Case) -> dict[str, int] | None:
    """Units to keep, at least one in each layer: a network that is cut in two is fast for no good reason."""
    pattern = parse_pattern(case.pattern)
    if isinstance(pattern, NM):
        return None
    units = {name: pattern.units(score.shape) for name, score in scores.items()}
    return {name: max(1, round(case.density * count)) for name, count in units.items()}


def _merged(layers: Iterable[DeployedLayer]) -> tuple[DeployedLayer, ...]:
    """Layers by name; one that is called several times takes the sum."""
    by_name: dict[str, DeployedLayer] = {}
    for layer in layers:
        known = by_name.get(layer.name)
        by_name[layer.name] = layer if known is None else _together(known, layer)
    return tuple(by_name.values())


def _together(a: DeployedLayer, b: DeployedLayer) -> DeployedLayer:
    return replace(a, native=_sum(a.native, b.native), dense=_sum(a.dense, b.dense))


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
