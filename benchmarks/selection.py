"""Selecting the k largest scores: tombola's `keep_largest` beside torch.sort and torch.kthvalue, on the CPU.

python benchmarks/selection.py [--threads N] [--sizes N ...] [--quick] [--json]

keep_largest is timed with the mask it writes, the rivals without: a bare sort, a bare threshold.
Medians; on a shared machine only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from tombola.select.topk import keep_largest

SIZES = (100_000, 2_400_000, 17_000_000)
DENSITIES = (0.5, 0.1)


def by_sort(scores: Tensor, k: int) -> Tensor:
    """The sort alone."""
    return torch.sort(scores).values


def by_kthvalue(scores: Tensor, k: int) -> Tensor:
    """The threshold alone."""
    return torch.kthvalue(scores, scores.numel() - k + 1).values


RIVALS: dict[str, Callable[[Tensor, int], Tensor]] = {"sort": by_sort, "kthvalue": by_kthvalue}


def milliseconds(
    select: Callable[[Tensor, int], Tensor], scores: Tensor, k: int, threads: int, seconds: float
) -> float:
    """The median over blocked runs, after a warm-up."""
    select(scores, k)
    names = {"select": select, "scores": scores, "k": k}
    timer = Timer("select(scores, k)", globals=names, num_threads=threads)
    return timer.blocked_autorange(min_run_time=seconds).median * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="shorter runs, rougher medians")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object of ratios")
    options = parser.parse_args()
    seconds = 0.2 if options.quick else 2.0
    ratios: dict[str, float] = {}
    draw = torch.Generator().manual_seed(0)
    print(f"float32 |normal| scores, {options.threads} threads, medians in ms; x = times as fast as the rival")
    print(f"{'scores':>12} {'kept':>5} {'tombola':>9} " + " ".join(f"{name:>9} {'x':>6}" for name in RIVALS))
    for n in options.sizes:
        scores = torch.randn(n, generator=draw).abs()
        for density in DENSITIES:
            k = round(density * n)
            ours = milliseconds(keep_largest, scores, k, options.threads, seconds)
            cells = []
            for name, rival in RIVALS.items():
                theirs = milliseconds(rival, scores, k, options.threads, seconds)
                suffix = "" if density == DENSITIES[0] else f"@{density:g}"
                ratios[f"{name}/{n}{suffix}"] = round(theirs / ours, 2)
                cells.append(f"{theirs:9.2f} {theirs / ours:6.1f}")
            print(f"{n:12,} {density:5.0%} {ours:9.3f} " + " ".join(cells))
    if options.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()
