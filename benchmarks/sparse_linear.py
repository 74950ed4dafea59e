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
import json
import os
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tombola.runtime.bench import measure, prepare, quartiles
from tombola.runtime.engines import Run, Workload
from tombola.runtime.gemv import signed_bound
from tombola.runtime.ops import Linear, Region
from tombola.runtime.sparse import NativeRegion, build
from tombola.runtime.sparse import measure as tune
from tombola.runtime.threads import threads_set

ENGINES = ("eager", "onnxruntime", "openvino")
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


def gain(times: dict[str, list[float]]) -> tuple[float, float, float]:
    """Quartiles and, in the middle, the median of the fastest dense engine's time over the sparse layer's."""
    rival = min((name for name in times if name != SPARSE), key=lambda name: statistics.median(times[name]))
    low, ratio, high = quartiles([a / b for a, b in zip(times[rival], times[SPARSE], strict=True)])
    return low, ratio, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs; a multiple of 4")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--only", nargs="+", default=[case.key for case in CASES], help="such as 90 or 90/signs")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    args = parser.parse_args()
    size, found = args.size, {}
    print(f"torch {torch.__version__}, {args.threads} threads, {size}x{size}, median of {args.rounds} rounds")
    print("milliseconds; ratio: the fastest dense engine over sparse, with its quartiles; MB and GB/s of the weights")
    heads = "".join(f"{head:>12}" for head in (*ENGINES, SPARSE))
    print(f"{'zeros':12}{'batch':>6}{heads}   ratio             cold  target     MB  bits  GB/s bound  kernel")
    torch.manual_seed(0)
    with threads_set(args.threads), torch.inference_mode():
        dense = nn.Linear(size, size).eval()
        for batch in args.batch:
            x = torch.randn(batch, size)
            engines, _ = prepare(Workload(dense, (x,), args.threads), ENGINES)
            for case in (case for case in CASES if case.key in args.only):
                weight = masked(size, case)
                layer = sparse(weight, dense.bias, batch, args.threads)
                wanted = nn.functional.linear(x.double(), weight.double(), dense.bias.double())
                error = float((layer(x)[0] - wanted).abs().max() / wanted.abs().max())
                if error > 1e-4:
                    raise SystemExit(f"{case.key} at batch {batch}: the outputs differ by {error:.1e}")
                runs: dict[str, Run] = {**engines, SPARSE: lambda layer=layer, x=x: layer(x)}
                times = measure(runs, rounds=args.rounds, threads=args.threads)
                low, ratio, high = gain(times)
                name = f"linear-{size}/b{batch}/{case.key}"
                found[name] = round(ratio, 3)
                alone = ""
                if batch == 1:
                    _, apart, _ = gain(cold(runs, 2 * args.rounds + 1))
                    found[f"{name}/cold"] = round(apart, 3)
                    alone = f"{apart:.2f}"
                bound = ""
                if case.kind == "signs":
                    share = layer.nbytes / signed_bound(weight.numel(), int(weight.count_nonzero()))
                    bound = f"{share:.2f}"
                    if batch == 1:
                        found[f"memory/{name}"] = round(share, 3)
                cells = "".join(
                    f"{1e3 * statistics.median(times[head]) if head in times else float('nan'):12.3f}"
                    for head in (*ENGINES, SPARSE)
                )
                print(
                    f"{case.key:12}{batch:6}{cells}   {f'{ratio:.2f} ({low:.2f}-{high:.2f})':18}{alone:>4}"
                    f"{case.target or '':>8}{layer.nbytes / 1e6:7.2f}{8 * layer.nbytes / weight.numel():6.2f}"
                    f"{layer.nbytes / statistics.median(times[SPARSE]) / 1e9:6.1f}{bound:>6}  {layer.choices['y']}",
                    flush=True,
                )
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
