"""One linear layer with zeros in its weights, against the fastest dense float32 engine of this machine.

Kept weights lie at random places: single ones, blocks of 4 output rows, or signed constants (all ± one number, stored
as signs alone). The engines and the sparse layer alternate within one run, with the same threads; the ratio is the
fastest dense engine's time over the sparse layer's, the median over rounds, with its quartiles. The dense weights,
64 MB at 4096x4096, must come from memory at every call as long as they are larger than the caches; sparse ones may stay
in a cache, so at batch 1 a second ratio, "cold", is taken of single calls, each after 256 MB of other data was read.

Beside it: the bytes of everything that stands for the weights, per weight in bits, how fast they are read, and for
signed constants the bytes as a multiple of mask entropy plus one sign bit per kept weight.

    python benchmarks/sparse_linear.py [--size 4096] [--threads 2] [--rounds 9] [--batch 1 64] [--only 90 95] [--json]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from record import Ratio, Record, Times, fastest, milliseconds, ratio, steadily
from tombola.bench.bench import prepare
from tombola.bench.engines import REDUCED, Run, Workload
from tombola.bench.timing import WALL
from tombola.deploy.kernels.gemv.forms import signed_bound
from tombola.deploy.kernels.sparse import NativeRegion, build
from tombola.deploy.kernels.sparse import measure as tune
from tombola.deploy.ops import Linear, Region
from tombola.runs.jobs import limit_threads

FULL = ("eager", "onnxruntime", "openvino")
ENGINES = (*FULL, *REDUCED)
SPARSE = "sparse"


@dataclass(frozen=True)
class Case:
    """Which weights are kept, and how much faster the layer should be at least. `kind`: "", "block:4" or "signs"."""

    zeros: int
    kind: str = ""
    target: float | None = None

    @property
    def key(self) -> str:
        return f"{self.zeros}/{self.kind}" if self.kind else str(self.zeros)


CASES = (
    Case(90, target=3),
    Case(95, target=5.5),
    Case(98),
    Case(90, "block:4"),
    Case(50, "signs"),
    Case(80, "signs"),
    Case(90, "signs"),
    Case(95, "signs"),
    Case(98, "signs"),
)


def masked(size: int, case: Case) -> Tensor:
    """A weight (size, size)."""
    rows = 4 if case.kind == "block:4" else 1
    mask = (torch.rand(size // rows, size) < 1 - case.zeros / 100).repeat_interleave(rows, 0)
    weight = torch.randn(size, size) / size**0.5
    if case.kind == "signs":
        weight = weight.sign() * weight.abs().mean()
    return weight * mask


def sparse(weight: Tensor, bias: Tensor, batch: int, threads: int) -> NativeRegion:
    """The layer in the kernel that was fastest here."""
    op = Linear("linear", "x", "y", weight, bias)
    region = Region({"x": (weight.shape[1],)}, (op,), ("y",))
    return build(region, batch, threads, tune(region, batch, threads).choices)


def cold(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of single calls, each after other data has gone through the caches and all threads have gone to rest."""
    other = np.zeros(2**25)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            other.sum()  # on one thread; torch's would spin on in the way of the others
            time.sleep(0.02)
            begun = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - begun)
    return found


def ratios(times: Times) -> dict[str, Ratio]:
    """Of the fastest float32 engine, and of the fastest of all, over the sparse layer."""
    return {
        "ratio": ratio(times[fastest(times, FULL)], times[SPARSE]),
        "ratio_bf16": ratio(times[fastest(times, ENGINES)], times[SPARSE]),
    }


@dataclass
class Dense:
    """The dense layer and its input, ready in every engine."""

    layer: nn.Linear
    x: Tensor
    runs: dict[str, Run]
    threads: int
    fastest: float = math.inf
    """The shortest median time so far, seconds."""

    def calm(self, times: Times) -> bool:
        """The dense layer is the same in every case, so where it takes much longer another job was busy."""
        now = statistics.median(times[fastest(times, ENGINES)])
        self.fastest = min(self.fastest, now)
        return now <= 1.25 * self.fastest


def compare(case: Case, dense: Dense, rounds: int) -> dict[str, Any]:
    """What there is to say of a layer with this case's zeros. The outputs must be right."""
    x, bias, threads = dense.x, dense.layer.bias, dense.threads
    weight = masked(len(bias), case)
    layer = sparse(weight, bias, len(x), threads)
    wanted = nn.functional.linear(x.double(), weight.double(), bias.double())
    off = float((layer(x)[0] - wanted).abs().max() / wanted.abs().max())
    if off > 1e-4:
        raise SystemExit(f"{case.key} at batch {len(x)}: the outputs differ by {off:.1e}")
    runs: dict[str, Run] = {**dense.runs, SPARSE: lambda: layer(x)}
    times = steadily(partial(WALL.measure, runs, rounds=rounds, threads=threads), ratios, dense.calm)
    found: dict[str, Any] = {
        "ms": milliseconds(times),
        "baseline": fastest(times, FULL),
        "baseline_bf16": fastest(times, ENGINES),
        **{name: one.as_dict() for name, one in ratios(times).items()},
        "error": off,
        "bytes": layer.nbytes,
        "kernel": str(layer.choices.layers["y"]),
    }
    if len(x) == 1:
        cold_times = cold(runs, 2 * rounds + 1)
        found |= {f"cold_{name}": one.as_dict() for name, one in ratios(cold_times).items()}
    if case.kind == "signs":
        found["over_bound"] = round(layer.nbytes / signed_bound(weight.numel(), int(weight.count_nonzero())), 3)
    return found


def line(case: Case, batch: int, weights: int, found: dict[str, Any]) -> str:
    """One line of the table."""
    times, size = found["ms"], found["bytes"]
    cells = "".join(f"{times.get(head, float('nan')):19.3f}" for head in (*ENGINES, SPARSE))
    shown = "".join(f"{Ratio(**found[name])!s:20}" for name in ("ratio", "ratio_bf16"))
    alone = f"{found['cold_ratio']['median']:.2f}" if "cold_ratio" in found else ""
    return (
        f"{case.key:12}{batch:6}{cells}   {shown}{alone:>4}{case.target or '':>8}{size / 1e6:7.2f}"
        f"{8 * size / weights:6.2f}{size / times[SPARSE] / 1e6:6.1f}{found.get('over_bound', ''):>7}  {found['kernel']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs; a multiple of 4")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--only", nargs="+", default=[case.key for case in CASES], help="such as 90 or 90/signs")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    size, record = args.size, Record("sparse_linear", args.threads, args.rounds)
    print(record.head(f"{size}x{size}"))
    print("milliseconds; ratios: the fastest float32 engine, and the fastest of all, over sparse, with quartiles")
    heads = "".join(f"{head:>19}" for head in (*ENGINES, SPARSE))
    print(f"{'zeros':12}{'batch':>6}{heads}   {'float32':20}{'with bfloat16':20}cold  target     MB  bits  GB/s  bound")
    torch.manual_seed(0)
    with limit_threads(args.threads, exclusive=True), torch.inference_mode():
        layer = nn.Linear(size, size).eval()
        for batch in args.batch:
            x = torch.randn(batch, size)
            dense = Dense(layer, x, prepare(Workload(layer, (x,), args.threads), ENGINES)[0], args.threads)
            for case in (case for case in CASES if case.key in args.only):
                found = compare(case, dense, args.rounds)
                name = f"linear-{size}/b{batch}/{case.key}"
                record.figures[name] = found["ratio"]["median"]
                if batch == 1:
                    record.figures[f"{name}/cold"] = found["cold_ratio"]["median"]
                    if case.kind == "signs":
                        record.figures[f"memory/{name}"] = found["over_bound"]
                record.rows.append({"size": size, "batch": batch, "case": case.key, "target": case.target} | found)
                print(line(case, batch, size * size, found), flush=True)
    record.finish(args.json)


if __name__ == "__main__":
    main()
