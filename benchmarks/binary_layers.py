"""Binary layers on binary activations in packed bits, against the fastest dense float32 engine of this machine.

Half of the weights are kept. Two figures: the packed layer with the packing of its float input and floats as its output
("layer"), and from packed signs to packed signs ("chain"), as between two packed layers. The engines and the
packed layer alternate within one run, with the same threads; a ratio is the median over rounds.

    python benchmarks/binary_layers.py [--threads 2] [--rounds 9] [--only linear-4096] [--json]
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from record import Ratio, Record, Times, fastest, milliseconds, ratio, steadily
from tombola.bench.bench import prepare
from tombola.bench.engines import REDUCED, Run, Workload
from tombola.bench.timing import WALL
from tombola.deploy.kernels.binary.chain import threshold
from tombola.deploy.kernels.binary.layer import ConvWindow, Maps, pack_weights
from tombola.deploy.kernels.binary.modules import PackedLayer, PackSigns
from tombola.nn.binary import signs_and_scale, use_binary_layers_
from tombola.runs.jobs import limit_threads

FULL = ("eager", "channels-last", "onnxruntime", "openvino")
ENGINES = (*FULL, *REDUCED)
VARIANTS = ("layer", "chain")
DENSITY = 0.5


@dataclass(frozen=True)
class Case:
    """A layer and its input's shape."""

    name: str
    channels: int
    side: int
    batch: int

    @property
    def key(self) -> str:
        return f"{self.name}/b{self.batch}"

    def layer(self) -> nn.Linear | nn.Conv2d:
        c = self.channels
        made = nn.Linear(c, c, bias=False) if self.side == 1 else nn.Conv2d(c, c, 3, padding=1, bias=False)
        with torch.no_grad():
            signs = torch.randn_like(made.weight).sign_() * (torch.rand_like(made.weight) < DENSITY)
            made.weight.copy_(0.5 * signs)
        return made.eval()

    def signs(self) -> Tensor:
        shape = (self.channels,) if self.side == 1 else (self.channels, self.side, self.side)
        return 2.0 * torch.randint(2, (self.batch, *shape)) - 1


CASES = (
    Case("linear-4096", 4096, 1, 64),
    Case("linear-4096", 4096, 1, 1),
    Case("conv-128-16x16", 128, 16, 64),
    Case("conv-128-16x16", 128, 16, 1),
    Case("conv-256-8x8", 256, 8, 64),
    Case("conv-256-8x8", 256, 8, 1),
)


def packed(case: Case, layer: nn.Linear | nn.Conv2d, x: Tensor, threads: int) -> dict[str, Run]:
    """(packing, counting, floats) and (counting, comparing) of the layer."""
    _, scale = signs_and_scale(layer.weight.detach())
    window = ConvWindow((1, 1)) if case.side == 1 else ConvWindow((3, 3), padding=(1, 1))
    border = (0, 0) if case.side == 1 else (1, 1)
    maps = Maps(case.channels, case.side, case.side, border)
    weight = layer.weight.detach()
    weights = pack_weights(weight if weight.dim() == 4 else weight[:, :, None, None], scale, None)
    options = {"out": case.channels, "flat": case.side == 1, "threads": threads}
    pack = PackSigns(maps, threads)
    floats = PackedLayer(weights, window, maps, after=None, **options)  # type: ignore[arg-type]
    bits = PackedLayer(weights, window, maps, after=threshold(layer, maps), **options)  # type: ignore[arg-type]
    signs = pack(x)
    return {"layer": lambda: floats(pack(x)), "chain": lambda: bits(signs)}


def ratios(times: Times) -> dict[str, Ratio]:
    """Of the fastest float32 engine, and of the fastest of all, over either variant."""
    found = {variant: ratio(times[fastest(times, FULL)], times[variant]) for variant in VARIANTS}
    return found | {f"{variant}_bf16": ratio(times[fastest(times, ENGINES)], times[variant]) for variant in VARIANTS}


def compare(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """What there is to say of a layer. Outputs must equal the float layer's to the bit."""
    layer, x = case.layer(), case.signs()
    runs, _ = prepare(Workload(layer, (x,), threads), ENGINES)
    variants = packed(case, layer, x, threads)
    binary = case.layer()
    binary.load_state_dict(layer.state_dict())
    use_binary_layers_(binary, ["weight"])
    assert torch.equal(variants["layer"](), binary(x))  # type: ignore[arg-type]
    times = steadily(partial(WALL.measure, {**runs, **variants}, rounds=rounds, threads=threads), ratios)
    return {
        "ms": milliseconds(times),
        "baseline": fastest(times, FULL),
        "baseline_bf16": fastest(times, ENGINES),
        **{name: one.as_dict() for name, one in ratios(times).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=sorted({case.name for case in CASES}), help="layers")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    torch.manual_seed(0)
    record = Record("binary_layers", args.threads, args.rounds)
    print(record.head())
    print("milliseconds; ratios: the fastest float32 engine (bf16: the fastest of all) over packed; target 4, goal 8")
    heads = "".join(f"{head:>19}" for head in (*ENGINES, *VARIANTS))
    names = (*VARIANTS, *(f"{variant}_bf16" for variant in VARIANTS))
    print(f"{'layer':16}{'batch':>6}{heads}   {''.join(f'{name:20}' for name in names)}")
    with limit_threads(args.threads, exclusive=True), torch.inference_mode():
        for case in (case for case in CASES if case.name in args.only):
            found = compare(case, args.threads, args.rounds)
            cells = "".join(f"{found['ms'].get(name, float('nan')):19.3f}" for name in (*ENGINES, *VARIANTS))
            print(
                f"{case.name:16}{case.batch:6}{cells}   {''.join(f'{Ratio(**found[n])!s:20}' for n in names)}",
                flush=True,
            )
            record.figures |= {case.key: found["layer"]["median"], f"{case.key}/chain": found["chain"]["median"]}
            record.rows.append({"name": case.name, "batch": case.batch} | found)
    record.finish(args.json)


if __name__ == "__main__":
    main()
