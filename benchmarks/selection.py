"""Selecting the k largest scores: tombola's `keep_largest` beside torch.sort and torch.kthvalue, on the CPU.

python benchmarks/selection.py [--threads N] [--sizes N ...] [--rounds 9] [--json]

keep_largest is timed with the mask it writes, the baselines without: a bare sort, a bare threshold. All alternate; a
ratio is the median over rounds, with its quartiles.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from record import Ratio, Record, Times, milliseconds, ratio, steadily
from tombola.bench.engines import Run
from tombola.bench.timing import WALL
from tombola.runs.jobs import limit_threads
from tombola.select.topk import keep_largest

SIZES = (100_000, 2_400_000, 17_000_000)
DENSITIES = (0.5, 0.1)


def by_sort(scores: Tensor, k: int) -> Tensor:
    """The sort alone."""
    return torch.sort(scores).values


def by_kthvalue(scores: Tensor, k: int) -> Tensor:
    """The threshold alone."""
    return torch.kthvalue(scores, scores.numel() - k + 1).values


VARIANTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tombola": keep_largest,
    "sort": by_sort,
    "kthvalue": by_kthvalue,
}


def ratios(times: Times) -> dict[str, Ratio]:
    """Every baseline over ours."""
    return {name: ratio(times[name], times["tombola"]) for name in VARIANTS if name != "tombola"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    record = Record("selection", args.threads, args.rounds)
    draw = torch.Generator().manual_seed(0)
    print(record.head("float32 |normal| scores"))
    print("medians in ms; ratio: the baseline's time over tombola's, with quartiles")
    print(f"{'scores':>12}{'kept':>6}{'tombola':>10}{'sort':>11}  {'ratio':24}{'kthvalue':>9}  ratio")
    with limit_threads(args.threads, exclusive=True):
        for n in args.sizes:
            scores = torch.randn(n, generator=draw).abs()
            for density in DENSITIES:
                runs: dict[str, Run] = {
                    name: partial(variant, scores, round(density * n)) for name, variant in VARIANTS.items()
                }
                times = steadily(partial(WALL.measure, runs, rounds=args.rounds, threads=args.threads), ratios)
                ms, found = milliseconds(times), ratios(times)
                cells = "".join(f"{ms[name]:11.2f}  {one!s:22}" for name, one in found.items())
                print(f"{n:12,}{density:6.0%}{ms['tombola']:10.3f}{cells}", flush=True)
                suffix = "" if density == DENSITIES[0] else f"@{density:g}"
                record.figures |= {f"{name}/{n}{suffix}": one.as_dict()["median"] for name, one in found.items()}
                record.rows.append(
                    {"scores": n, "density": density, "ms": ms} | {k: one.as_dict() for k, one in found.items()}
                )
    record.finish(args.json)


if __name__ == "__main__":
    main()
