"""Networks of the field as their users have them, at 90 % zeros: how many regions deploy finds, and how fast it is.

Every layer keeps the share of its weights that are the largest; detection networks, segmentation and classification,
of one image unless said otherwise. The engines and the deployed network alternate within one run, with the same
threads; the ratio is eager torch's time over the deployed network's, the median over rounds, with its quartiles.

    python benchmarks/networks.py [--only detector craft] [--density 0.1] [--threads 1] [--rounds 7] [--json]

CRAFT and CREPE come from the packages that trained_tasks.py names; where these are missing their rows are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

import tombola as tb
from record import Ratio, Record, Times, fastest, milliseconds, ratio, steadily
from tombola.bench.bench import DEPLOYED, prepare
from tombola.bench.engines import Run, Workload
from tombola.bench.timing import WALL
from tombola.runs.jobs import limit_threads
from trained_tasks import craft, crepe

ENGINES = ("eager", "channels-last", "onnxruntime", "openvino")


# ---- a small detector: what networks of the YOLO family are made of ------------------------------------------------


class Unit(nn.Sequential):
    """Convolution, norm, SiLU."""

    def __init__(self, inputs: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.SiLU(inplace=True))


class Split(nn.Module):
    """Half of the channels through bottlenecks, and all that came by joined."""

    def __init__(self, inputs: int, out: int, depth: int, *, add: bool) -> None:
        super().__init__()
        self.half = out // 2
        self.first, self.last = Unit(inputs, out), Unit((2 + depth) * self.half, out)
        pairs = [nn.Sequential(Unit(self.half, self.half, 3), Unit(self.half, self.half, 3)) for _ in range(depth)]
        self.blocks, self.add = nn.ModuleList(pairs), add

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            y = block(parts[-1])
            parts.append(parts[-1] + y if self.add else y)
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Maxima over ever larger windows, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = Unit(channels, channels // 2), Unit(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Three scales, joined from the coarse to the fine and back; boxes and classes for each."""

    def __init__(self, width: int = 16, classes: int = 80) -> None:
        super().__init__()
        a, b, c, d, e = (width * 2**i for i in range(5))
        self.stem = nn.Sequential(Unit(3, a, 3, 2), Unit(a, b, 3, 2), Split(b, b, 1, add=True))
        self.fine = nn.Sequential(Unit(b, c, 3, 2), Split(c, c, 2, add=True))
        self.middle = nn.Sequential(Unit(c, d, 3, 2), Split(d, d, 2, add=True))
        self.coarse = nn.Sequential(Unit(d, e, 3, 2), Split(e, e, 1, add=True), Pyramid(e))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.to_middle, self.to_fine = Split(d + e, d, 1, add=False), Split(c + d, c, 1, add=False)
        self.down_fine, self.down_middle = Unit(c, c, 3, 2), Unit(d, d, 3, 2)
        self.back_middle, self.back_coarse = Split(c + d, d, 1, add=False), Split(d + e, e, 1, add=False)
        sizes = (c, d, e)
        self.boxes = nn.ModuleList(nn.Sequential(Unit(n, 64, 3), Unit(64, 64, 3), nn.Conv2d(64, 64, 1)) for n in sizes)
        self.kinds = nn.ModuleList(
            nn.Sequential(Unit(n, classes, 3), Unit(classes, classes, 3), nn.Conv2d(classes, classes, 1)) for n in sizes
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(self.stem(x))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        two = self.to_middle(torch.cat([self.up(coarse), middle], 1))
        one = self.to_fine(torch.cat([self.up(two), fine], 1))
        two = self.back_middle(torch.cat([self.down_fine(one), two], 1))
        three = self.back_coarse(torch.cat([self.down_middle(two), coarse], 1))
        heads = zip(self.boxes, self.kinds, (one, two, three), strict=True)
        return tuple(torch.cat([boxes(y), kinds(y)], 1) for boxes, kinds, y in heads)


# ---- a U-net ------------------------------------------------------------------------------------------------------


def twice(inputs: int, out: int) -> nn.Sequential:
    """Two convolutions with norms."""
    layers: list[nn.Module] = []
    for n in (inputs, out):
        layers += [nn.Conv2d(n, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Four levels; `learned`: resized by transposed convolutions, else bilinearly."""

    def __init__(self, width: int = 16, *, learned: bool) -> None:
        super().__init__()
        sizes = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(twice(n, m) for n, m in zip([3, *sizes], sizes, strict=False))
        pairs = list(zip(reversed(sizes[1:]), reversed(sizes[:-1]), strict=True))
        up = [nn.ConvTranspose2d(n, m, 2, 2) if learned else nn.Conv2d(n, m, 1) for n, m in pairs]
        self.up, self.learned = nn.ModuleList(up), learned
        self.joined = nn.ModuleList(twice(2 * m, m) for _, m in pairs)
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            levels.append(x)
        levels.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            x = up(x)
            x = x if self.learned else F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = joined(torch.cat([levels.pop(), x], 1))
        return self.last(x)  # type: ignore[no-any-return]


# ---- what is measured ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """`build()` gives a network for inputs of `shape`."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, 224, 224)


NETWORKS = {
    "detector": Network(Detector, (1, 3, 320, 320)),
    "mobilenet-v3-small": Network(models.mobilenet_v3_small),
    "efficientnet-b0": Network(models.efficientnet_b0),
    "craft": Network(lambda: craft().model, (1, 3, 256, 256)),
    "unet-bilinear": Network(partial(UNet, learned=False), (1, 3, 128, 128)),
    "unet-transposed": Network(partial(UNet, learned=True), (1, 3, 128, 128)),
    "resnet-18": Network(models.resnet18),
    "convnext-tiny": Network(models.convnext_tiny),
    "crepe-tiny": Network(lambda: crepe("tiny").model, (1, 1024)),
}


def pruned(network: Network, density: float) -> nn.Module:
    """The network in eval mode with its smallest weights zero, norms with statistics of some data."""
    torch.manual_seed(0)
    model = network.build()
    with torch.no_grad():
        model(torch.randn(4, *network.shape[1:]))
    return tb.prune(model.eval(), density=density, errors=False).model


def error(want: Any, have: Any) -> float:
    """The largest max|a-b| / max|a| of the outputs."""
    pairs = zip(*((x,) if isinstance(x, Tensor) else tuple(x) for x in (want, have)), strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def ratios(times: Times) -> dict[str, Ratio]:
    """Of eager torch, and of the fastest engine, over deployed."""
    over = {"eager": "eager", "fastest": fastest(times, ENGINES)}
    return {name: ratio(times[engine], times[DEPLOYED]) for name, engine in over.items()}


def compare(name: str, density: float, threads: int, rounds: int) -> dict[str, Any]:
    """What there is to say of a network."""
    network = NETWORKS[name]
    model, x = pruned(network, density), torch.randn(network.shape, generator=torch.manual_seed(1))
    begun = time.perf_counter()
    deployed = tb.deploy(model, x, threads=threads, engines=())
    seconds = time.perf_counter() - begun
    with limit_threads(threads, exclusive=True), torch.inference_mode():
        runs, _ = prepare(Workload(model, (x,), threads), ENGINES)
        every: dict[str, Run] = {**runs, DEPLOYED: partial(deployed, x)}
        times = steadily(partial(WALL.measure, every, rounds=rounds, threads=threads), ratios)
        off = error(model(x), deployed(x))
    return {
        "network": name,
        "shape": list(network.shape),
        "density": density,
        "regions": len(deployed.plan.parts),
        "native": sum(part.engine == "native" for part in deployed.plan.parts),
        "left": sorted({why for why in deployed.report.dense.values()}),
        "ms": milliseconds(times),
        "fastest": fastest(times, ENGINES),
        **{f"over_{key}": one.as_dict() for key, one in ratios(times).items()},
        "error": off,
        "deploy_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    record = Record("networks", args.threads, args.rounds)
    print(record.head())
    print(f"{'network':20}{'regions':>8}{'native':>7}" + "".join(f"{head:>15}" for head in (*ENGINES, DEPLOYED)))
    for name in args.only:
        try:
            row = compare(name, args.density, args.threads, args.rounds)
        except SystemExit as missing:
            print(f"{name:20}left out: {missing}")
            continue
        cells = "".join(f"{row['ms'].get(engine, float('nan')):15.2f}" for engine in (*ENGINES, DEPLOYED))
        over = f"{row['over_eager']['median']:.2f} of eager, {row['over_fastest']['median']:.2f} of {row['fastest']}"
        print(f"{name:20}{row['regions']:8}{row['native']:7}{cells}  {over}  {row['error']:.0e}", flush=True)
        for why in row["left"]:
            print(f"{'':20}left: {why}")
        record.figures[name] = row["over_eager"]["median"]
        record.rows.append(row)
    record.finish(args.json)


if __name__ == "__main__":
    main()
