"""Whole networks with zeros in their weights, deployed, against the fastest dense engines of this machine.

Every layer keeps the same share of its weights, at random places. The engines and the deployed network alternate
within one run, with the same threads; a ratio is the fastest dense engine's time over the deployed network's, the
median over rounds, with its quartiles: once of the float32 engines, which compute what the deployed network computes,
and once of all, those that round to bfloat16 included. The outputs are compared with the masked network's.

    python benchmarks/inference.py [--threads 2] [--rounds 9] [--only conv-6] [--batch 64 1] [--json]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

import tombola as tb
from record import Ratio, Record, Times, fastest, milliseconds, ratio, steadily
from tombola.bench.bench import DEPLOYED, prepare
from tombola.bench.engines import REDUCED, Run, Workload
from tombola.bench.timing import WALL
from tombola.models.registry import build_network
from tombola.runs.jobs import limit_threads
from tombola.select.select import select

FULL = ("eager", "channels-last", "onnxruntime", "openvino")
ENGINES = (*FULL, *REDUCED)


@dataclass(frozen=True)
class Case:
    """Which weights are kept, and how much faster the network should be at least, and at best."""

    density: float
    pattern: str = "element"
    target: float | None = None
    goal: float | None = None

    @property
    def key(self) -> str:
        zeros = f"{100 * (1 - self.density):g}"
        return zeros if self.pattern == "element" else f"{zeros}/{self.pattern}"


CASES = (
    Case(0.1, "element", 1.6, 2.5),
    Case(0.05, "element", 2.8, 4.5),
    Case(0.1, "block:4", 2.5, 4),
)


@dataclass(frozen=True)
class Network:
    """`build()` gives a network for images of `shape`; `cases` and `batches`: what is measured of it."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 32, 32)
    cases: tuple[Case, ...] = CASES
    batches: tuple[int, ...] = (64, 1)


def ours(name: str, shape: tuple[int, int, int] = (3, 32, 32)) -> Callable[[], nn.Module]:
    """One of Tombola's networks."""
    return lambda: build_network(name, input_shape=shape, classes=10)


NETWORKS = (
    Network("conv-6", ours("conv-6")),
    Network("resnet-18", ours("resnet-18")),
    # too small to gain, and many kinds of layers to choose for
    Network("lenet-300-100", ours("lenet-300-100", (1, 28, 28)), (1, 28, 28), (Case(0.5),), (1,)),
    Network("mobilenet-v2", mobilenet_v2, (3, 224, 224), CASES[:1], (1,)),
)


def masked(network: Network, case: Case) -> nn.Module:
    """The network in eval mode with the case's zeros, norms with statistics of some data."""
    torch.manual_seed(0)
    model = network.build()
    weights = tb.prunable(model)
    mask = select({n: torch.rand_like(w) for n, w in weights.items()}, density=case.density, pattern=case.pattern)
    with torch.no_grad():
        for key, weight in weights.items():
            weight.mul_(mask[key])
        model(torch.randn(64 if network.shape[1] <= 32 else 8, *network.shape))
    return model.eval()


def error(want: Tensor, have: Tensor) -> float:
    """max|a-b| / max|a|."""
    return float((want - have).abs().max() / want.abs().max())


def ratios(times: Times) -> dict[str, Ratio]:
    """Of the fastest float32 engine, and of the fastest of all, over deployed."""
    return {
        "ratio": ratio(times[fastest(times, FULL)], times[DEPLOYED]),
        "ratio_bf16": ratio(times[fastest(times, ENGINES)], times[DEPLOYED]),
    }


def compare(model: nn.Module, x: Tensor, threads: int, rounds: int) -> dict[str, Any]:
    """What there is to say of a network deployed for this batch."""
    begun = time.perf_counter()
    deployed = tb.deploy(model, x, threads=threads, engines=())
    seconds = time.perf_counter() - begun
    with limit_threads(threads, exclusive=True), torch.inference_mode():
        runs, _ = prepare(Workload(model, (x,), threads), ENGINES)
        every: dict[str, Run] = {**runs, DEPLOYED: partial(deployed, x)}
        times = steadily(partial(WALL.measure, every, rounds=rounds, threads=threads), ratios)
        off = error(model(x), deployed(x))
    return {
        "ms": milliseconds(times),
        "baseline": fastest(times, FULL),
        "baseline_bf16": fastest(times, ENGINES),
        **{name: one.as_dict() for name, one in ratios(times).items()},
        "error": off,
        "deploy_seconds": round(seconds, 1),
        "shown": [str(one) for one in ratios(times).values()],
    }


def main() -> None:
    names = [network.name for network in NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=names, choices=names, help="networks")
    parser.add_argument("--cases", nargs="+", default=None, help="such as 90 or 90/block:4")
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 1])
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    record = Record("inference", args.threads, args.rounds)
    print(record.head())
    print("milliseconds; ratios: the fastest float32 engine, and the fastest of all, over deployed, with quartiles")
    heads = "".join(f"{head:>19}" for head in (*ENGINES, DEPLOYED))
    print(
        f"{'network':13}{'batch':>6}{'zeros':>12}{heads}   {'float32':20}{'with bfloat16':20}target  error  deploying"
    )
    chosen = [
        (network, case, batch)
        for network in NETWORKS
        for case in network.cases
        for batch in network.batches
        if network.name in args.only and (not args.cases or case.key in args.cases) and batch in args.batch
    ]
    for network, case, batch in chosen:
        x = torch.randn(batch, *network.shape)
        found = compare(masked(network, case), x, args.threads, args.rounds)
        cells = "".join(f"{found['ms'].get(name, float('nan')):19.2f}" for name in (*ENGINES, DEPLOYED))
        full, with_bf16 = found.pop("shown")
        print(
            f"{network.name:13}{batch:6}{case.key:>12}{cells}   {full:20}{with_bf16:20}{case.target or '':>6}"
            f"  {found['error']:.0e}  {found['deploy_seconds']:.1f} s",
            flush=True,
        )
        record.figures[f"{network.name}/b{batch}/{case.key}"] = found["ratio"]["median"]
        record.rows.append(
            {"network": network.name, "batch": batch, "case": case.key, "target": case.target, "goal": case.goal}
            | found
        )
    record.finish(args.json)


if __name__ == "__main__":
    main()
