"""Differences of checkpoints in bfloat16: bytes for a changed weight beside the entropy, and how fast they are decoded
and applied, in megabytes of the checkpoint a second.

    python benchmarks/deltas.py [--million 64] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from record import Record
from tombola.deltas import delta, gaps

SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.3)


def entropy_bytes(count: int, size: int) -> float:
    """Of which `count` of `size` changed."""
    logs = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return logs / math.log(2) / 8


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The median, after one call that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(record: Record, share: float, size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(size, generator=draw).bfloat16()}
    tuned = {"w": base["w"].clone()}
    at = torch.rand(size, generator=draw) < share
    tuned["w"][at] += 1
    found = delta(base, tuned)
    positions = found.changes["w"].positions
    code, parameters = gaps.encode(positions.numpy())
    count, megabytes = len(positions), 2 * size / 1e6
    decode = seconds(lambda: gaps.decode(code, parameters, count, size), record.rounds)
    backward = delta(tuned, base)

    def both() -> None:
        found.apply_(base)
        backward.apply_(base)

    apply = seconds(both, record.rounds) / 2
    encode = seconds(lambda: delta(base, tuned), record.rounds)
    taken = code.nbytes + parameters.nbytes
    row = {
        "changed": count / size,
        "bytes": taken / count,
        "of_entropy": taken / entropy_bytes(count, size),
        "decode_mb_s": megabytes / decode,
        "apply_mb_s": megabytes / apply,
        "compare_mb_s": megabytes / encode,
    }
    record.rows.append({name: round(value, 5) for name, value in row.items()})
    record.figures |= {f"{share:g}/{name}": round(value, 4) for name, value in row.items()}
    print("".join(f"{value:14.4g}" for value in row.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=int, default=64, help="weights of the checkpoint, in millions")
    parser.add_argument("--rounds", type=int, default=5, help="of each timing")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object of all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("deltas", threads=1, rounds=options.rounds)
    print(record.head())
    print(
        "".join(
            f"{name:>14}" for name in ("changed", "bytes each", "/ entropy", "decode MB/s", "apply MB/s", "compare")
        )
    )
    for share in SHARES:
        measure(record, share, options.million * 1_000_000)
    record.finish(options.json)


if __name__ == "__main__":
    main()
