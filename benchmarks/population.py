"""A population of masks on frozen weights: all in one forward pass (torch.func.vmap) against one after the other.

What is timed is `Fitness`, by which searches without gradients judge masks: masked weights, forward passes over a
sample, mean losses. Rounds of both alternate; the ratio is the loop's time over vmap's, the median over rounds: above 1
vmap is faster.

    python benchmarks/population.py [--threads 1] [--rounds 9] [--examples 1000] [--device cpu] [--only NAME] [--json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from record import Ratio, Record, Times, milliseconds, ratio, steadily
from tombola.data.splits import Splits, make_splits
from tombola.levels.fitness import Fitness, sample_of
from tombola.levels.population import Space
from tombola.models.registry import build_network
from tombola.parameters import prunable
from tombola.runs.jobs import limit_threads
from tombola.train.fabric import make_fabric
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup

DENSITY = 0.5
SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class Case:
    """A network and how many masks."""

    model: str
    masks: int

    @property
    def key(self) -> str:
        return f"{self.model}/{self.masks}"


def lenet() -> nn.Module:
    return build_network("lenet-300-100", input_shape=SHAPE, classes=10)


def small_conv() -> nn.Module:
    """Two convolutions of 16 channels, 5,008 weights in all."""
    convs = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(256, 10))


NETWORKS = {"lenet-300-100": lenet, "small-conv": small_conv}
CASES = tuple(Case(model, masks) for model in NETWORKS for masks in (4, 16, 64))


def splits(examples: int) -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(examples, *SHAPE, generator=draw)
    y = torch.randint(10, (examples,), generator=draw)
    return make_splits((x, y), (x, y), (x, y))


def judges(case: Case, examples: int, device: str) -> dict[str, Callable[[], list[float]]]:
    """Name -> evaluates the same population."""
    setup = TrainingSetup(splits(examples), Recipe(), make_fabric(device, "32"))
    found: dict[str, Callable[[], list[float]]] = {}
    for name, together in (("loop", 1), ("vmap", case.masks)):
        model = NETWORKS[case.model]().to(setup.fabric.device)
        space = Space.of(prunable(model), DENSITY)
        rows = space.random(case.masks, torch.Generator().manual_seed(1))
        judge = Fitness(setup, model, space, sample_of(setup, model, examples, 0), together)
        if judge.together != together:
            raise SystemExit(f"{case.model} takes no several masks at once")
        found[name] = lambda judge=judge, rows=rows: judge(rows)  # type: ignore[misc]
    return found


def timed(judges: dict[str, Callable[[], list[float]]], rounds: int) -> Times:
    times: Times = {name: [] for name in judges}
    for judge in judges.values():
        judge()
    for _ in range(rounds):
        for name, judge in judges.items():
            start = time.perf_counter()
            judge()  # which reads the losses, and so waits for a GPU
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=[], help="networks")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    record = Record("population", given.threads, given.rounds)
    print(record.head(f"{given.examples} examples on {given.device}"))

    def ratios(times: Times) -> dict[str, Ratio]:
        return {"loop/vmap": ratio(times["loop"], times["vmap"])}

    with limit_threads(given.threads):
        for case in CASES:
            if given.only and case.model not in given.only:
                continue
            both = judges(case, given.examples, given.device)
            times = steadily(lambda both=both: timed(both, given.rounds), ratios)  # type: ignore[misc]
            found, ms = ratios(times)["loop/vmap"], milliseconds(times)
            print(f"{case.model:14}{case.masks:4} masks{ms['loop']:10.2f} ms loop{ms['vmap']:10.2f} ms vmap  {found}")
            record.figures[case.key] = round(found.median, 3)
            record.rows.append({"model": case.model, "masks": case.masks, "ms": ms, "loop/vmap": found.as_dict()})
    record.finish(given.json)


if __name__ == "__main__":
    main()
