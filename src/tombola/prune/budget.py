"""Prune a trained network to a budget in the user's terms: the densities of its layers are searched for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.bench.timing import WALL, Clock
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import density as in_percent
from tombola.formats import percent, plural
from tombola.machine.autocast import without_autocast
from tombola.names import check_known
from tombola.parameters import unwrap
from tombola.prune.allocate import Counts, Evolution, by_error, evolve, uniform
from tombola.prune.calibration import Calibration, Data, listed, opened
from tombola.prune.goals import FileSize, Goal, KeepAccuracy, bytes_of, dense_bytes
from tombola.prune.goals import faster as faster_than
from tombola.prune.how import by_layer, how_of
from tombola.prune.path import check_path
from tombola.prune.prune import attempt
from tombola.prune.pruned import Pruned
from tombola.prune.sensitivity import measured
from tombola.prune.tried import Tried
from tombola.prune.validation import Validation, validation_of
from tombola.rng.seeds import generator
from tombola.runs.progress import Progress, Silent
from tombola.select.criteria import Criterion
from tombola.select.patterns import NM, Pattern
from tombola.ticket.origin import NetworkSpec
from tombola.ticket.rounding import Values

ALLOCATIONS = ("sensitivity", "uniform", "evolution")
_TRIED = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02)
_CLOSE = 1.02
"""Two densities whose ratio is less are one."""


@dataclass(frozen=True)
class Trial:
    """A density of the whole network, and what it gave: points lost, times as fast, or bytes."""

    density: float
    value: float
    met: bool


@dataclass(frozen=True, eq=False)
class Reached:
    """The pruned network, and what it reached of the budget; `str` says so in one line.

    `budget`: keep_accuracy, faster or file; `asked`, `value`: points lost, times as fast, or bytes. `met`: False for
    the nearest that was found. `accuracy`: before and after, where there are labels. `trials`: all that was tried.
    """

    pruned: Pruned
    budget: str
    asked: float
    value: float
    met: bool
    words: str
    accuracy: tuple[float, float] | None
    trials: tuple[Trial, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without the network."""
        densities = {layer.name: layer.kept / max(layer.total, 1) for layer in self.pruned.layers}
        return {
            "budget": self.budget,
            "asked": self.asked,
            "reached": self.value,
            "met": self.met,
            "density": self.pruned.mask.density,
            "densities": densities,
            "trials": [vars(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        start = "met" if self.met else "NOT met, the nearest that was reached"
        if self.met and self.pruned.mask.kept == self.pruned.mask.total:
            start = "met by the network as it is, nothing is pruned"
        kept = in_percent(self.pruned.mask.density)
        both = () if self.accuracy is None else map(percent, self.accuracy)
        scores = "; accuracy " * bool(both) + " -> ".join(both)
        tried = plural(len(self.trials), "trial")
        return f"{self.budget} {self.asked:,.12g}: {start}: {self.words} at density {kept}{scores}; {tried}"


@checked
@without_autocast()
@torch.inference_mode(False)  # of tensors made within that mode there are no gradients
def prune_to(
    model: nn.Module,
    calibration: Data,
    *,
    keep_accuracy: float | None = None,
    faster: float | None = None,
    file: int | str | None = None,
    example: Tensor | None = None,
    threads: int | None = None,
    engine: str = "eager",
    values: Values | None = None,
    network: NetworkSpec | None = None,
    allocation: str = "sensitivity",
    evolution: Evolution | None = None,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = "element",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    lowest: float = 0.01,
    trials: int = 8,
    seed: int = 0,
    clock: Clock = WALL,
    progress: Progress | None = None,
) -> Reached:
    """Prune a trained network to one budget: the sparsest that keeps the accuracy, or the densest of a speed or size.

    The density of the whole is bisected, the allocation spreads each over the layers, and `tb.prune` prunes to that.
    Where the network is fast or small enough as it is, it is given back unpruned, at density 1. Where no density that
    was tried keeps the accuracy, the one that loses least is given, with `met` False, and not the dense network, which
    would keep it in any case: that one you have, and this says what pruning costs.

    Args:
        model: copied, and left as it is; on the CPU for `faster`.
        calibration: as of `tb.prune`. Accuracy is that on a data set's validation examples, or on batches (x, y).
        keep_accuracy: points of accuracy lost at most.
        faster: times as fast as `engine` runs the dense network, at least: the pruned one is deployed here and timed.
        file: bytes of the ticket's file at most, or a text such as "5MB", or "25%" of the bytes of the dense network's
            tensors.
        example: for `faster`, inputs of the shape and batch size to be fast for; None: the first of the calibration.
        threads: for `faster`, of the CPU; None: as torch is set.
        engine: for `faster`, what it is compared with, of `tombola.bench.engines.ENGINES`.
        values: for `file`, float16, bfloat16 or int8 rounds kept weights, as of `Ticket.save`.
        network: for `file`, what the ticket names as its network, as of `Pruned.ticket`.
        allocation: "sensitivity" (all layers, each pruned alone, add the same error to the output), "uniform" (one
            density) or "evolution" (EvoPress: from the first, weights move between layers at the same total). Where
            the criterion is sparse_gpt, layers are compared by magnitude.
        evolution: settings of the last.
        criterion: as of `tb.prune`.
        pattern: as of `tb.prune`.
        include: as of `tb.prune`.
        exclude: as of `tb.prune`.
        samples: as of `tb.prune`.
        seed: as of `tb.prune`.
        lowest: no density below it is tried.
        trials: at most so many densities below 1 are tried.
        clock: for `faster`, what says how long runs take.
        progress: shows how far it has come.

    Raises:
        TombolaError: none or several budgets, one out of range, no labels for accuracy, N:M, which fixes the density,
            pattern "head"; only networks without a path from the input to the output are near it.

    >>> network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    >>> reached = tb.prune_to(network, torch.randn(32, 64), file="20kB")
    >>> reached.met, reached.value <= 20_000, 0.1 < reached.pruned.mask.density < 0.8
    (True, True, True)
    """
    size = None if file is None else bytes_of(file, dense_bytes(unwrap(model)))
    budget, asked = _budget(keep_accuracy=keep_accuracy, faster=faster, file=size)
    check_known("allocation", allocation, ALLOCATIONS)
    form = by_layer(pattern)
    if isinstance(form, NM):
        raise TombolaError(
            f"pattern {pattern} fixes the density, which a budget searches for; take element, block:V or inputs:V"
        )
    if not 0 < lowest < 1 or trials < 1:
        raise TombolaError(f"lowest is {lowest} and trials {trials}; give a density in (0, 1), and at least 1 trial")
    own, bar = unwrap(model), progress or Silent()
    rebuilds = how_of(criterion, 1.0, None, form).rebuilds
    given = listed(opened(calibration), samples)
    tried = Tried(
        own,
        given,
        criterion="magnitude" if rebuilds else criterion,
        pattern=pattern,
        include=include,
        exclude=exclude,
        samples=samples,
        seed=seed,
    )
    checks, before = _checked(given, tried, needed=budget == "keep_accuracy")
    goal: Goal
    if budget == "file":
        goal = FileSize(int(asked), values, network)
    elif budget == "faster":
        goal = faster_than(asked, copy.deepcopy(own).eval(), _example(example, tried), threads, engine, clock)
    else:
        assert checks is not None
        assert before is not None
        goal = KeepAccuracy(asked, checks, before)
    allocate = _allocation(allocation, tried, evolution or Evolution(), seed, bar)
    sizes = tried.sizes
    weights = sum(sizes.values())

    def at(density: float, errors: bool = False) -> tuple[Pruned, Calibration | None]:
        whole = density == 1  # then nothing is changed: neither weights nor norms
        each = dict.fromkeys(sizes, 1.0)
        if not whole:
            each = tried.densities(allocate(min(weights, max(len(sizes), round(density * weights)))))
        how = how_of("magnitude" if whole else criterion, each, None, form)
        told = errors or budget == "keep_accuracy"  # a size and a speed do not ask for statistics
        norms = None if told and not whole else False
        settings: dict[str, Any] = {"samples": samples, "norms": norms, "errors": errors, "seed": seed}
        return attempt(own, given, how, include, exclude, **settings)

    done: list[Trial] = []
    with bar.track(f"densities for {budget} {asked:g}", trials + goal.sparser_helps) as update:
        for trial in bisected(lambda density: goal.value(at(density)[0]), goal, lowest, trials):
            done.append(trial)
            update(len(done))
    best = nearest(done, goal)
    pruned, read = at(best.density, errors=True)
    check_path(own, pruned, read, f"{budget} {asked:g} asks for more than these layers can give: with them it is "
               f"{goal.words(best.value)}; ask for less, or include more layers")  # fmt: skip
    accuracy = None
    if checks is not None and before is not None:
        accuracy = (before, before if best.density == 1 else checks.of(pruned.model))
    return Reached(pruned, budget, asked, best.value, best.met, goal.words(best.value), accuracy, tuple(done))


def bisected(value_at: Callable[[float], float], goal: Goal, lowest: float, trials: int) -> Iterator[Trial]:
    """Densities tried, halving where the budget begins or ceases to be met.

    Of a speed or size the lowest comes first, which says whether it can be met, then density 1, which says whether
    there is anything to do, and is not counted; halving is in the logarithm.
    Accuracy that is kept is looked for from the dense end, in equal steps, so that few trials find a density that does.
    """
    low, high = lowest, 1.0

    def trial(density: float) -> Trial:
        value = value_at(density)
        return Trial(density, value, goal.short(value) <= 0)

    tried = goal.sparser_helps
    if tried:
        first = trial(low)
        yield first
        if not first.met:
            return  # nothing sparser is tried
        whole = trial(high)
        yield whole
        if whole.met:
            return
        trials -= 1
    for _ in range(trials):
        if tried and high < _CLOSE * low:
            return
        tried = True
        middle = trial(math.sqrt(low * high) if goal.sparser_helps else (low + high) / 2)
        yield middle
        if middle.met == goal.sparser_helps:
            low = middle.density
        else:
            high = middle.density


def nearest(trials: Sequence[Trial], goal: Goal) -> Trial:
    """Of those that meet the budget the densest, or the sparsest that keeps accuracy; if none does the least short."""
    met = [trial for trial in trials if trial.met]
    if not met:
        return min(trials, key=lambda trial: goal.short(trial.value))
    return (max if goal.sparser_helps else min)(met, key=lambda trial: trial.density)


def _budget(**given: float | None) -> tuple[str, float]:
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) != 1:
        what = f"{' and '.join(asked)} are given" if asked else "no budget is given"
        raise TombolaError(f"{what}; give one of {', '.join(given)}")
    ((name, value),) = asked.items()
    if not 0 <= value < math.inf or (name != "keep_accuracy" and value == 0):
        raise TombolaError(f"{name} is {value}; give a number above 0")
    return name, value


def _checked(given: Data, tried: Tried, needed: bool) -> tuple[Validation | None, float | None]:
    """What says the accuracy, and that of the dense network; None where there is none, unless it is needed."""
    try:
        checks = validation_of(given, tried.network, tried.data)
        return checks, checks.of(tried.network)
    except TombolaError:
        if needed:
            raise
        return None, None


def _example(given: Tensor | None, tried: Tried) -> tuple[Tensor, ...]:
    if given is not None:
        return (given,)
    first = tried.data.batches[0]
    if first.named or not all(isinstance(x, Tensor) and x.dim() for x in first.args):
        raise TombolaError("the calibration's batches are no plain tensors; give the example to be fast for")
    return tuple(x[:1] for x in first.args)


def _allocation(kind: str, tried: Tried, settings: Evolution, seed: int, bar: Progress) -> Callable[[int], Counts]:
    """What spreads a number of kept weights over the layers; the same for the same number."""
    sizes = tried.sizes
    if kind == "uniform":
        return lambda total: uniform(sizes, total)
    losses = measured(tried, _TRIED, None, "", "", bar).losses()
    if kind == "sensitivity":
        return lambda total: by_error(sizes, _TRIED, losses, total)
    known: dict[int, Counts] = {}

    def error(counts: Counts, share: float) -> float:
        tried.set_(tried.densities(counts))
        return tried.error(share)

    def evolved(total: int) -> Counts:
        if total not in known:
            draw = generator(seed, "evolution", total)
            best = by_error(sizes, _TRIED, losses, total)
            generations = evolve(best, sizes, error, settings, draw)
            with bar.track("generations", settings.generations) as update:
                for done, generation in enumerate(generations, 1):
                    best, _ = generation
                    update(done)
            known[total] = best
        return known[total]

    return evolved
