"""Binary layers on binary activations in packed bits, against the fastest dense float32 engine of this machine.

Half of the weights are kept. Two figures: the packed layer with the packing of its float input and floats as its output
("layer"), and from packed signs to packed signs ("chain"), as between two packed layers. The engines and the
packed layer alternate within one run, with the same threads; a ratio is the median over rounds.

    python benchmarks/binary_layers.py [--threads 2] [--rounds 9] [--only linear-4096] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.nn.binary import signs_and_scale, use_binary_layers_
from tombola.runtime.bench import prepare, quartiles
from tombola.runtime.binary.chain import threshold
from tombola.runtime.binary.layer import Maps, Window, pack_weights
from tombola.runtime.binary.modules import PackedLayer, PackSigns
from tombola.runtime.engines import Run, Workload
from tombola.runtime.threads import threads_set
from tombola.runtime.timing import measure

ENGINES = ("eager", "channels-last", "onnxruntime", "openvino")
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
    window = Window((1, 1)) if case.side == 1 else Window((3, 3), padding=(1, 1))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=sorted({case.name for case in CASES}), help="layers")
    parser.add_argument("--json", action="store_true", help="print the ratios as one JSON object on the last line")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads, median of {args.rounds} alternating rounds")
    print("milliseconds; ratios: the fastest dense engine over packed, with quartiles; target 4, goal 8")
    heads = "".join(f"{head:>14}" for head in (*ENGINES, "layer", "chain"))
    print(f"{'layer':16}{'batch':>6}{heads}   {'layer':18} chain")
    found: dict[str, float] = {}
    with threads_set(args.threads), torch.inference_mode():
        for case in (case for case in CASES if case.name in args.only):
            layer, x = case.layer(), case.signs()
            runs, _ = prepare(Workload(layer, (x,), args.threads), ENGINES)
            ways = packed(case, layer, x, args.threads)
            binary = case.layer()
            binary.load_state_dict(layer.state_dict())
            use_binary_layers_(binary, ["weight"])
            assert torch.equal(ways["layer"](), binary(x))  # type: ignore[arg-type]
            times = measure({**runs, **ways}, rounds=args.rounds, threads=args.threads)
            best = min(runs, key=lambda name: statistics.median(times[name]))
            cells = "".join(
                f"{1e3 * statistics.median(times[n]) if n in times else float('nan'):14.3f}" for n in (*ENGINES, *ways)
            )
            shown = []
            for way in ways:
                low, ratio, high = quartiles([a / b for a, b in zip(times[best], times[way], strict=True)])
                shown.append(f"{ratio:5.2f} ({low:.2f}-{high:.2f})")
                found[case.key if way == "layer" else f"{case.key}/chain"] = round(ratio, 3)
            print(f"{case.name:16}{case.batch:6}{cells}   {shown[0]:18} {shown[1]}", flush=True)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
