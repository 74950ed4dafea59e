"""The ticket file: its size beside the information bound, and millions of weights per second in and out, on the CPU.

python benchmarks/ticket_file.py [--quick] [--json]

Masks: random ones of one density, and "rows x columns": every output and every input has its own density (log-odds
normal with a standard deviation of 1). The bound of a mask is its entropy at the layer's density; a mask with
structure goes below it, to the entropy of the densities it was drawn from at best. Files: a whole ticket, seeded
(a mask alone), uneven (seeded, its mask "rows x columns"), trained (float32 values) and binary (signs). Speeds are
the best of a few runs, on one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from record import Record
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.ticket import masks
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.representation import Representation
from tombola.ticket.storage import bound_bytes, entropy
from tombola.ticket.ticket import Ticket

T = TypeVar("T")
DENSITIES = (0.005, 0.02, 0.1, 0.5, 0.9, 0.99)
SHAPES = ((2048, 2048), (512, 512, 3, 3), (64, 64, 3, 3), (300, 784))


def best_of(function: Callable[[], T], rounds: int) -> tuple[T, float]:
    """(result, seconds of the fastest run)."""
    seconds = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        result = function()
        seconds = min(seconds, time.perf_counter() - start)
    return result, seconds


def rows_and_columns(shape: tuple[int, ...], draw: np.random.Generator, density: float) -> NDArray[np.float64]:
    """The probability of each weight: log-odds of its output plus those of its input."""
    rest = (1,) * (len(shape) - 2)
    odds = draw.normal(size=(shape[0], 1, *rest)) + draw.normal(size=(1, shape[1], *rest))
    return np.broadcast_to(1 / (1 + np.exp(-odds - math.log(density / (1 - density)))), shape)


def measure_masks(record: Record, quick: bool) -> None:
    """Prints and records one line per shape and density: ratios and speeds."""
    draw = np.random.default_rng(0)
    print(f"{'mask':>16} {'density':>8} {'coding':>10} {'/ bound':>8} {'/ best':>8} {'M/s in':>8} {'M/s out':>8}")
    for shape in SHAPES[1:] if quick else SHAPES:
        for density in DENSITIES:
            cases = {"random": np.full(shape, density)}
            if 0.01 < density < 0.6:
                cases["structured"] = rows_and_columns(shape, draw, density)
            for kind, p in cases.items():
                keep = draw.random(shape) < p
                (coding, stream), write = best_of(partial(masks.encode, keep), record.rounds)
                _, read = best_of(partial(masks.decode, coding, stream, shape), record.rounds)
                bits = 8 * len(stream)
                bound = keep.size * entropy(int(keep.sum()), keep.size)
                ideal = float((-p * np.log2(p) - (1 - p) * np.log2(1 - p)).sum())
                name = "x".join(map(str, shape))
                speeds = keep.size / write / 1e6, keep.size / read / 1e6
                print(f"{name:>16} {keep.mean():8.4f} {coding:>10} {bits / bound:8.4f} {bits / ideal:8.4f} "
                      f"{speeds[0]:8.0f} {speeds[1]:8.0f}")  # fmt: skip
                key = f"{kind}/{name}@{density:g}"
                figures = {"bound": round(bits / bound, 4), "in": round(speeds[0], 1), "out": round(speeds[1], 1)}
                record.figures |= {f"{key}/{what}": figure for what, figure in figures.items()}
                record.rows.append(
                    {"mask": kind, "shape": list(shape), "density": density, "coding": coding}
                    | {"over_ideal": round(bits / ideal, 4)}
                    | figures
                )


def tickets(density: float) -> dict[str, Ticket]:
    """Tickets of a ResNet-18 for 32x32 images: seeded, uneven, trained, binary."""
    spec = NetworkSpec("resnet-18", {}, (3, 32, 32), 10)
    state = build_network(spec.name, input_shape=(3, 32, 32), classes=10, args={}).state_dict()
    draw = torch.Generator().manual_seed(0)
    kept = {n: torch.rand(t.shape, generator=draw) < density for n, t in state.items() if t.ndim > 1}
    rest = {name: value for name, value in state.items() if name not in kept}
    trained = {name: torch.randn(int(keep.sum()), generator=draw) for name, keep in kept.items()}
    signs = {name: torch.where(value < 0, -1, 1).to(torch.int8) for name, value in trained.items()}
    origin = Origin(network=spec, init="kaiming_normal", seed=0, weights_hash="0" * 64)
    scales = Representation("binary", {name: torch.tensor(0.1) for name in kept})
    numpy_draw = np.random.default_rng(0)
    uneven = {}
    for name, keep in kept.items():
        p = rows_and_columns(tuple(keep.shape), numpy_draw, density)
        uneven[name] = torch.from_numpy(numpy_draw.random(p.shape) < p)
    provenance = {"method": "imp", "recipe": {f"option_{i}": i / 7 for i in range(40)}}
    return {
        "seeded": Ticket(origin=origin, mask=Mask(kept), provenance=provenance),
        "uneven": Ticket(origin=origin, mask=Mask(uneven), provenance=provenance),
        "trained": Ticket(origin=origin, mask=Mask(kept), trained=trained, state=rest, provenance=provenance),
        "binary": Ticket(origin=origin, mask=Mask(kept), trained=signs, state=rest, representation=scales),
    }


def measure_files(record: Record, rounds: int) -> None:
    """Prints and records one line per ticket and density: ratios, what is beyond the bound, and speeds."""
    print(f"\n{'ticket':>16} {'density':>8} {'bytes':>12} {'/ bound':>8} {'beyond':>8} {'M/s in':>8} {'M/s out':>8}")
    for density in DENSITIES:
        for kind, ticket in tickets(density).items():
            data, write = best_of(ticket.to_bytes, rounds)
            _, read = best_of(partial(Ticket.from_bytes, data), rounds)
            bound, total = bound_bytes(ticket), ticket.mask.total
            speeds = total / write / 1e6, total / read / 1e6
            print(f"{kind:>16} {density:8.4f} {len(data):12,} {len(data) / bound:8.4f} {len(data) - bound:8,.0f} "
                  f"{speeds[0]:8.0f} {speeds[1]:8.0f}")  # fmt: skip
            key = f"resnet-18/{kind}@{density:g}"
            figures = {"bound": round(len(data) / bound, 4), "beyond": round(len(data) - bound),
                       "in": round(speeds[0], 1), "out": round(speeds[1], 1)}  # fmt: skip
            record.figures |= {f"{key}/{what}": figure for what, figure in figures.items()}
            record.rows.append({"ticket": kind, "density": density, "bytes": len(data)} | figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="masks up to 2.4 million weights only, fewer rounds")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object of all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("ticket_file", threads=1, rounds=2 if options.quick else 5)
    print(record.head())
    measure_masks(record, options.quick)
    measure_files(record, rounds=1 if options.quick else 3)
    record.finish(options.json)


if __name__ == "__main__":
    main()
