"""Whole networks with zeros in their weights, deployed, against the fastest dense float32 engine of this machine.

Every layer keeps the same share of its weights, at random places. The engines and the deployed network alternate
within one run, with the same threads; the ratio is the fastest dense engine's time over the deployed network's, the
median over rounds, with its quartiles. The outputs are compared with the masked network's.

    python benchmarks/inference.py [--threads 2] [--rounds 9] [--only conv-6] [--batch 64 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tombola as tb
from tombola.models.registry import build_network
from tombola.runtime.bench import DEPLOYED, bench
from tombola.select import select

NETWORKS = ("conv-6", "resnet-18")
ENGINES = ("eager", "channels-last", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Case:
    """Which weights are kept, and how much faster the network should be at least, and at best."""

    density: float
    pattern: str
    target: float
    goal: float

    @property
    def key(self) -> str:
        zeros = f"{100 * (1 - self.density):g}"
        return zeros if self.pattern == "element" else f"{zeros}/{self.pattern}"


CASES = (
    Case(0.1, "element", 1.6, 2.5),
    Case(0.05, "element", 2.8, 4.5),
    Case(0.1, "block:4", 2.5, 4),
)


def masked(name: str, case: Case) -> nn.Module:
    """The network in eval mode with the case's zeros, norms with statistics of some data."""
    torch.manual_seed(0)
    network = build_network(name, input_shape=(3, 32, 32), classes=10)
    weights = tb.prunable(network)
    mask = select({n: torch.rand_like(w) for n, w in weights.items()}, density=case.density, pattern=case.pattern)
    with torch.no_grad():
        for key, weight in weights.items():
            weight.mul_(mask[key])
        network(torch.randn(64, 3, 32, 32))
    return network.eval()


def error(want: Tensor, have: Tensor) -> float:
    """max|a-b| / max|a|."""
    return float((want - have).abs().max() / want.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), help="networks")
    parser.add_argument("--cases", nargs="+", default=[case.key for case in CASES], help="such as 90 or 90/block:4")
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 1])
    parser.add_argument("--json", action="store_true", help="print the ratios as one JSON object on the last line")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.threads} threads, median of {args.rounds} alternating rounds")
    print("milliseconds; ratio: the fastest dense engine over deployed, with its quartiles")
    heads = "".join(f"{head:>14}" for head in (*ENGINES, DEPLOYED))
    print(f"{'network':11}{'batch':>6}{'zeros':>12}{heads}   ratio            target  error")
    found: dict[str, float] = {}
    for name in args.only:
        for case in (case for case in CASES if case.key in args.cases):
            network = masked(name, case)
            for batch in args.batch:
                x = torch.randn(batch, 3, 32, 32)
                deployed = tb.deploy(network, x, threads=args.threads)
                with torch.inference_mode():
                    off = error(network(x), deployed(x))
                told = bench(
                    network, {batch: deployed}, {batch: (x,)}, threads=args.threads, engines=ENGINES, rounds=args.rounds
                )
                (gain,) = told.gains
                cells = "".join(f"{time.median or float('nan'):14.2f}" for time in told.timings)
                spread = f"{gain.ratio:5.2f} ({gain.low:.2f}-{gain.high:.2f})"
                print(f"{name:11}{batch:6}{case.key:>12}{cells}   {spread:16} {case.target:6}  {off:.0e}", flush=True)
                found[f"{name}/b{batch}/{case.key}"] = round(gain.ratio, 3)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
