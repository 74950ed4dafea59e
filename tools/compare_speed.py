"""Compare the speed of two commits by a benchmark that both have, run in turns.

    python tools/compare_speed.py OLD [NEW] --benchmark training_step [--pairs 5] [-- --rounds 3 --only ...]

Each commit runs its own `benchmarks/NAME.py --json`; old and new alternate, and which of them begins alternates too, so
that a machine whose speed drifts slows both. Of every time: the medians, NEW over OLD pair by pair with quartiles, and
that ratio over the baseline's of the same pair, which has no code of Tombola's: the machine's own drift goes out.
NEW left out is the working tree as it stands. Words after `--` go to the benchmark. On an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from compare_commits import checked_out, end_on_signals, environment

BASELINES = {"training_step": "bare", "supermask_step": "dense", "selection": "sort", "inference": "eager"}
"""Benchmark -> the variant in it that runs torch alone."""
CASE = ("network", "batch", "case", "scores", "density")
"""Keys of a row that name what is measured."""

Times = dict[str, dict[str, float]]
"""Case -> variant -> milliseconds."""


def run(tree: Path, benchmark: str, words: list[str]) -> Times:
    command = [sys.executable, str(tree / "benchmarks" / f"{benchmark}.py"), *words, "--json"]
    threads = {key: value for key, value in environment(tree).items() if not key.endswith("_NUM_THREADS")}
    done = subprocess.run(command, env=threads, cwd=tree, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(2)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["rows"]
    return {"/".join(str(row[key]) for key in CASE if key in row): row["ms"] for row in rows}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def compare(old: list[Times], new: list[Times], baseline: str) -> list[tuple[str, str, float, float, float]]:
    """Case, variant, the median milliseconds of both, and the median ratio with the baseline's drift taken out."""
    rows = []
    for case, variants in old[0].items():
        drift = [b[case][baseline] / a[case][baseline] for a, b in zip(old, new, strict=True)]
        for variant in variants:
            pairs = [(a[case][variant], b[case][variant]) for a, b in zip(old, new, strict=True)]
            ratios = [b / a for a, b in pairs]
            low, middle, high = quartiles(ratios)
            steadied = statistics.median(r / d for r, d in zip(ratios, drift, strict=True))
            before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
            shown = f"{before:10.3f}{after:10.3f}  {middle:6.3f} ({low:.3f}-{high:.3f})"
            print(f"{case:28}{variant:20}{shown}{'' if variant == baseline else f'{steadied:9.3f}'}")
            rows.append((case, variant, before, after, steadied))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", help="a commit; left out: the working tree as it stands")
    parser.add_argument("--benchmark", choices=sorted(BASELINES), required=True)
    parser.add_argument("--pairs", type=int, default=5, help="how often each commit runs it")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args, rest = parser.parse_args(words[:cut]), words[cut + 1 :]
    end_on_signals()
    sides: tuple[list[Times], list[Times]] = ([], [])
    with tempfile.TemporaryDirectory(prefix="compare-speed-") as name:
        base = Path(name).resolve()
        commits = zip("ab", (args.old, args.new), strict=True)
        trees = [checked_out(commit, base / side) for side, commit in commits]
        for number in range(args.pairs):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                sides[side].append(run(trees[side], args.benchmark, rest))
    baseline = BASELINES[args.benchmark]
    print(f"{'case':28}{'':20}{'old ms':>10}{'new ms':>10}  new/old (quartiles)    over {baseline}'s")
    compare(*sides, baseline)
    return 0


if __name__ == "__main__":
    sys.exit(main())
