"""The barrier between two networks: loss and metric along the line between them, and how high its worst point is.

At position a the network has the weights (1 - a)·w_first + a·w_second. Norms that keep running statistics take them
anew from training batches at every point, ends included: those of either end do not fit the weights between.
The barrier is that of Frankle et al. 2020: see `tombola.results.connectivity.barrier_of`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tombola.data.splits import Split
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.hold import release
from tombola.parameters import unwrap
from tombola.results.connectivity import Line, LineSplit, barrier_of
from tombola.rng.seeds import checked_seed, derive
from tombola.runs.jobs import limit_threads
from tombola.search.request import as_data, loaded, made
from tombola.study.connectivity.line import State, check_alike, check_finite, distance, interpolated, state_of
from tombola.train.dry_run import in_words, try_evaluation
from tombola.train.fabric import make_fabric
from tombola.train.feeds import evaluated_part, layout
from tombola.train.fit import check_fits
from tombola.train.norms import renew_norm_statistics
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup

POINTS = 30
"""On a line, ends included (Frankle et al. 2020)."""
_NORMS = "norms cannot take their statistics from batches of the training split (set batch_size in the recipe)"


@checked
def barrier(
    first: nn.Module,
    second: nn.Module,
    data: Any,
    *,
    points: int = POINTS,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    options: Options | None = None,
) -> Line:
    """The line between two networks of one architecture: loss and metric at evenly spaced points, and the barriers.

    Neither network is changed. Pruned weights are 0 at both ends, so on the line too.

    Args:
        data: as in `find`; its task says what loss and metric are.
        points: on the line, ends included; at least 3.
        recipe: batch size of the batches that norms take their statistics from, precision, layout, and train_eval: how
            much of the training split is evaluated.
        seed: order of those batches.

    Returns:
        positions, `distance`, and for the `train` and `test` splits metric, loss and their barriers.

    Raises:
        TombolaError: the networks differ in a name, a shape, or a value that no line leads to.

    >>> nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2)]
    >>> data = (torch.randn(64, 4), torch.arange(64) % 2)
    >>> tb.barrier(nets[0], nets[0], (data, data, data)).test.barrier
    0.0
    """
    check_points(points)
    options, splits = options or Options(), loaded(as_data(data, first))
    recipe = recipe if isinstance(recipe, Recipe) else made(Recipe, {}, recipe)
    fabric = make_fabric(options.device, recipe.precision)
    with limit_threads(options.threads):
        setup = TrainingSetup(splits, recipe, fabric, options)
        _check_fits(setup, first, second)
        return line_between(setup, first, second, points=points, seed=checked_seed(seed))


def _check_fits(setup: TrainingSetup, first: nn.Module, second: nn.Module) -> None:
    """TombolaError unless both networks take the data, and the task what they give."""
    for which, network in (("first", first), ("second", second)):
        held = [*network.parameters(), *network.buffers()]
        if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) or tensor.is_meta for tensor in held):
            raise TombolaError(f"the {which} network has parameters without values; call it once, or load its weights")
        if any(tensor.is_complex() for tensor in held):
            raise TombolaError(f"the {which} network has complex parameters, which this takes no line between")
    check_alike(state_of(first), state_of(second))
    for which, network in (("first", first), ("second", second)):
        check_finite(which, unwrap(network))
        try:
            copied = copy.deepcopy(unwrap(network))
            release(copied)
            check_fits(copied, setup.splits)
            try_evaluation(setup, copied)
        except TombolaError as error:
            raise TombolaError(f"the {which} network: {error}") from error


def check_points(points: int) -> None:
    """TombolaError unless so many points are a line with something between its ends."""
    if not 3 <= points <= 10_000:
        raise TombolaError(f"points is {points}, but it must lie between 3 (the ends and the middle) and 10,000")


def line_between(setup: TrainingSetup, first: nn.Module, second: nn.Module, *, points: int, seed: int) -> Line:
    """`barrier` with the data, device and precision of a training."""
    ends = state_of(first), state_of(second)
    check_alike(*ends)
    for which, network in (("first", first), ("second", second)):
        check_finite(which, unwrap(network))
    probe = copy.deepcopy(unwrap(first))
    release(probe)
    probe.to(setup.fabric.device)
    if layout(probe, setup.recipe):
        probe.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    parts = {"train": evaluated_part(setup.splits, setup.recipe.train_eval)}
    if setup.splits.test is not None:
        parts["test"] = setup.splits.test
    positions = tuple(index / (points - 1) for index in range(points))
    found = _along(setup, probe, ends, positions, parts, derive(seed, "norm-statistics"))
    length = distance(*ends, (name for name, _ in probe.named_parameters()))
    return Line(positions=positions, distance=length, train=found["train"], test=found.get("test"))


def _along(
    setup: TrainingSetup,
    probe: nn.Module,
    ends: tuple[State, State],
    positions: tuple[float, ...],
    parts: Mapping[str, Split],
    seed: int,
) -> dict[str, LineSplit]:
    scorers = {name: setup.scorer(probe, part) for name, part in parts.items()}
    metrics: dict[str, list[float | None]] = {name: [] for name in parts}
    losses: dict[str, list[float | None]] = {name: [] for name in parts}
    for position in positions:
        probe.load_state_dict(interpolated(*ends, position))
        with in_words(_NORMS):
            renew_norm_statistics(probe, setup, seed)
        for name, score in scorers.items():
            scored = score()
            metrics[name].append(_finite(scored.metric))
            losses[name].append(_finite(scored.loss))
    better = setup.splits.task.higher_is_better
    return {
        name: LineSplit(
            examples=len(part),
            metric=tuple(metrics[name]),
            loss=tuple(losses[name]),
            barrier=barrier_of(metrics[name], higher_is_better=better),
            loss_barrier=barrier_of(losses[name], higher_is_better=False),
        )
        for name, part in parts.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
