"""K trainings as one stacked network against the same ones one after the other, in one run, as a ratio.

Both go through `train`: small networks on random inputs of the shape of digits and MNIST, with a 20 % mask held. Rounds
of the two alternate, so that a machine whose speed drifts slows both; the ratio is the median over rounds of stacked
over separate: below 1 the stack is faster.

    python benchmarks/stacked.py [--threads 2] [--rounds 5] [--device cpu] [--json]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from record import Ratio, Record, Times, milliseconds, ratio, steadily
from tombola.data.splits import Splits, make_splits
from tombola.hold import hold
from tombola.models.registry import build_network
from tombola.parameters import prunable
from tombola.select.select import select
from tombola.train.fabric import make_fabric
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.stacked.company import Company
from tombola.train.stacked.table import together


@dataclass(frozen=True)
class Case:
    model: str
    shape: tuple[int, ...]
    batch: int
    runs: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.model}/{self.shape[-1]}x{self.shape[-1]}/{self.batch}/{self.runs}"


CASES = (
    Case("mlp", (1, 8, 8), 32, 8, 40),
    Case("lenet-300-100", (1, 8, 8), 60, 8, 30),
    Case("lenet-300-100", (1, 28, 28), 60, 8, 10),
    Case("conv-2", (1, 8, 8), 32, 8, 4),
)


def data(case: Case) -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch * 40, *case.shape, generator=draw)
    y = torch.randint(10, (len(x),), generator=draw)
    return make_splits((x, y), (x[:10], y[:10]), None, classes=10)


def job(case: Case, splits: Splits, seed: int, device: str) -> Callable[[Company | None], None]:
    """One training, alone or in a company."""
    recipe = Recipe(
        length=f"{case.steps}it", batch_size=case.batch, optimizer="adam", lr=1.2e-3, eval_every=f"{10**6}it"
    )
    torch.manual_seed(seed)
    model = build_network(case.model, input_shape=case.shape, classes=10)
    mask = select({name: weight.abs() for name, weight in prunable(model).items()}, density=0.2)
    fabric = make_fabric(device)

    def run(company: Company | None) -> None:
        with hold(model, mask):
            train(model, splits, recipe, seed=seed, fabric=fabric, company=company)

    return run


def seconds_per_step(case: Case, splits: Splits, device: str, stacked: bool) -> float:
    """Of all runs together, by iteration of each."""
    jobs = [job(case, splits, seed, device) for seed in range(case.runs)]
    begun = time.perf_counter()
    if stacked:
        assert all(how.steps == case.steps for _, _, how in together(jobs))
    else:
        for one in jobs:
            one(None)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / case.steps


def measure(case: Case, splits: Splits, rounds: int, device: str) -> Times:
    """Seconds per step of all runs, the two ways in alternation; the first round warms up."""
    found: Times = {"separate": [], "stacked": []}
    for number in range(rounds + 1):
        row = {way: seconds_per_step(case, splits, device, way == "stacked") for way in found}
        if number:
            for way, seconds in row.items():
                found[way].append(seconds)
    return found


def ratios(times: Times) -> dict[str, Ratio]:
    """Stacked over separate."""
    return {"ratio": ratio(times["stacked"], times["separate"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = Record("stacked", args.threads, args.rounds)
    print(record.head(args.device))
    print(f"{'network/input/batch/runs':34}{'separate ms':>12}{'stacked ms':>12}  ratio (quartiles)")
    for case in CASES:
        splits = data(case)
        times = steadily(lambda c=case, s=splits: measure(c, s, args.rounds, args.device), ratios)  # type: ignore[misc]
        ms, found = milliseconds(times), ratios(times)["ratio"]
        print(f"{case.name:34}{ms['separate']:12.3f}{ms['stacked']:12.3f}  {found}", flush=True)
        record.figures[case.name] = found.as_dict()["median"]
        about = {"network": case.model, "input": case.shape[-1], "batch": case.batch, "runs": case.runs}
        record.rows.append({**about, "ms": ms, "ratio": found.as_dict()})
    record.finish(args.json)


if __name__ == "__main__":
    main()
