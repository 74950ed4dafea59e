"""One training step through Tombola against a bare hand-written PyTorch loop, in one run, as a ratio.

Both use the same network, the same fused optimiser and data that lies in memory as tensors; the bare loop does
nothing but cut a batch by index, forward, backward and step. Rounds of the two alternate, so that a machine
whose speed drifts slows both; the ratio is the median over rounds.

    python benchmarks/training_step.py [--threads 2] [--rounds 9] [--json]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from record import Ratio, Record, Times, milliseconds, ratio, steadily
from tombola.data.splits import Splits, make_splits
from tombola.hold import hold
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.parameters import prunable
from tombola.select.select import select
from tombola.train.feeds import wants_channels_last
from tombola.train.loop import train
from tombola.train.recipe import Recipe


@dataclass(frozen=True)
class Case:
    model: str
    shape: tuple[int, ...]
    batch: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.model}/{self.batch}"


CASES = (
    Case("lenet-300-100", (1, 28, 28), 60, 1000),
    Case("lenet-300-100", (1, 28, 28), 128, 800),
    Case("conv-4", (3, 32, 32), 128, 10),
)


def data(case: Case) -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch * 40, *case.shape, generator=draw)
    y = torch.randint(10, (len(x),), generator=draw)
    return make_splits((x, y), (x[:10], y[:10]), None, classes=10)


def bare(case: Case, splits: Splits, channels_last: bool) -> float:
    """Milliseconds per step of the hand-written loop."""
    model = build_network(case.model, input_shape=case.shape, classes=10)
    x, y = splits.train.x, splits.train.y  # type: ignore[union-attr]
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3, fused=True)
    done, begun = 0, time.perf_counter()
    while done < case.steps:
        for index in torch.randperm(len(x)).split(case.batch):
            loss = F.cross_entropy(model(x[index]), y[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if done == case.steps:
                break
    return 1e3 * (time.perf_counter() - begun) / case.steps


def ours(case: Case, splits: Splits, density: float | None) -> float:
    """Milliseconds per step through `train`, dense or with a mask held."""
    model = build_network(case.model, input_shape=case.shape, classes=10)
    recipe = Recipe(
        length=f"{case.steps}it", batch_size=case.batch, optimizer="adam", lr=1.2e-3, eval_every=f"{10**6}it"
    )
    if density is None:
        begun = time.perf_counter()
        train(model, splits, recipe)
    else:
        mask: Mask = select({name: weight.abs() for name, weight in prunable(model).items()}, density=density)
        with hold(model, mask):
            begun = time.perf_counter()
            train(model, splits, recipe)
    return 1e3 * (time.perf_counter() - begun) / case.steps


def measure(case: Case, splits: Splits, rounds: int) -> Times:
    """Seconds per step in each variant, the variants in alternation; the first round warms up."""
    channels_last = wants_channels_last(build_network(case.model, input_shape=case.shape, classes=10))
    found: Times = {"bare": [], "ours": [], "masked": []}
    for number in range(rounds + 1):
        row = (bare(case, splits, channels_last), ours(case, splits, None), ours(case, splits, 0.2))
        if number:
            for times, milli in zip(found.values(), row, strict=True):
                times.append(milli / 1e3)
    return found


def ratios(times: Times) -> dict[str, Ratio]:
    """Dense and masked over the bare loop."""
    return {"dense": ratio(times["ours"], times["bare"]), "masked": ratio(times["masked"], times["bare"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=[case.name for case in CASES], help="such as lenet-300-100/60")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = Record("training_step", args.threads, args.rounds)
    print(record.head())
    print(f"{'network/batch':20}{'bare ms':>9}{'ours ms':>9}  {'ratio':20}{'masked ms':>9}  ratio (quartiles)")
    for case in (case for case in CASES if case.name in args.only):
        splits = data(case)
        times = steadily(lambda case=case, splits=splits: measure(case, splits, args.rounds), ratios)  # type: ignore[misc]
        ms, found = milliseconds(times), ratios(times)
        shown = f"{ms['ours']:9.3f}  {found['dense']!s:20}{ms['masked']:9.3f}  {found['masked']}"
        print(f"{case.name:20}{ms['bare']:9.3f}{shown}", flush=True)
        record.figures |= {f"{variant}/{case.name}": one.as_dict()["median"] for variant, one in found.items()}
        record.rows.append(
            {"network": case.model, "batch": case.batch, "ms": ms} | {k: one.as_dict() for k, one in found.items()}
        )
    record.finish(args.json)


if __name__ == "__main__":
    main()
