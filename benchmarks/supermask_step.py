"""One training step with edge-popup (frozen weights, learned scores) against the same dense step, as a ratio.

Both use the same network, batch and fused SGD with momentum; the dense step trains all parameters, edge-popup the
scores, with one refresh of all masks per step. Beside it a multi-prize step (float activations: signs of the weights,
one scale per layer), and edge-popup as the reference implementations do it: the scores of every layer sorted in
every forward pass. Rounds of all alternate, so that a machine whose speed drifts slows all; a ratio is the median
over rounds.

The peak memory of one step is counted, not sampled: the bytes of all parameters, buffers and optimiser states,
plus the highest sum of what torch allocated and freed meanwhile, as its profiler records it (on CUDA: as the
caching allocator does). Printed are the bytes per prunable weight by which that exceeds the dense step. Not
counted is the workspace of the selection on the CPU, at most 12 bytes for each sixteenth weight of the largest
layer, which is taken when the gradients have been let go.

    python benchmarks/supermask_step.py [--threads 2] [--rounds 9] [--only lenet-300-100 conv-4] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.profiler import ProfilerActivity, profile

from record import Ratio, Record, Times, milliseconds, ratio, steadily
from tombola.models.registry import build_network
from tombola.nn.binary import use_binary_layers_
from tombola.parameters import holders, prunable
from tombola.supermask import Binary, TopK, attach, refresh
from tombola.train.feeds import wants_channels_last

DENSITY = 0.5
VARIANTS = ("dense", "edge-popup", "multi-prize", "sort-reference")


@dataclass(frozen=True)
class Case:
    """A network, its input, and how many steps make a round (of the sorted variant, which is slow, fewer)."""

    model: str
    shape: tuple[int, ...]
    batch: int
    steps: int
    sorted_steps: int


CASES = (
    Case("lenet-300-100", (1, 28, 28), 60, 2000, 50),
    Case("conv-4", (3, 32, 32), 128, 4, 2),
    Case("conv-8", (3, 32, 32), 128, 3, 2),
    Case("resnet-18", (3, 32, 32), 128, 1, 1),
)


class SortedSubnet(torch.autograd.Function):
    """The mask of the largest scores by a full sort; its gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, sizes: Tensor) -> Tensor:
        order = sizes.flatten().argsort()
        pruned = order.numel() - round(DENSITY * order.numel())
        mask = torch.empty(order.numel(), dtype=sizes.dtype, device=sizes.device)
        mask[order[:pruned]] = 0
        mask[order[pruned:]] = 1
        return mask.view(sizes.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class SortReference(nn.Module):
    """weight * mask, the mask sorted anew in every forward pass."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(nn.init.kaiming_uniform_(torch.empty_like(weight, requires_grad=False), a=5**0.5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * SortedSubnet.apply(self.scores.abs())


def learning(variant: str, model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimiser is given, after the model has been made ready."""
    if variant == "dense":
        return list(model.parameters())
    if variant == "edge-popup":
        return attach(model, TopK(DENSITY)).scores
    if variant == "multi-prize":
        use_binary_layers_(model, prunable(model))
        return attach(model, TopK(DENSITY), represent=Binary()).scores
    places = holders(model)
    chosen = prunable(model)
    model.requires_grad_(False)
    references = {name: SortReference(weight) for name, weight in chosen.items()}
    for name, reference in references.items():
        for module, local in places[name]:
            parametrize.register_parametrization(module, local, reference, unsafe=True)
    return [reference.scores for reference in references.values()]


class Run:
    """A network in training in one of the variants, on one batch that lies on the device."""

    def __init__(self, case: Case, variant: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = build_network(case.model, input_shape=case.shape, classes=10)
        self.x = torch.randn(case.batch, *case.shape, device=device)
        self.y = torch.randint(10, (case.batch,), device=device)
        if wants_channels_last(self.model):
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.model.to(device)
        self.weights = sum(weight.numel() for weight in prunable(self.model).values())
        scores = learning(variant, self.model)
        self.optimizer = torch.optim.SGD(scores, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
        self.after: Callable[[nn.Module], None] = (
            refresh if variant in ("edge-popup", "multi-prize") else lambda model: None
        )

    def step(self) -> None:
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.after(self.model)

    def milliseconds(self, steps: int) -> float:
        """Per step."""
        self.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.synchronize()
        return 1e3 * (time.perf_counter() - begun) / steps

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self) -> int:
        """The most bytes that lay in tensors at once during a step."""
        self.step()
        self.synchronize()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step()
            self.synchronize()
            return torch.cuda.max_memory_allocated(self.device)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
            self.step()
        return self.resident() + highest(recorded)

    def resident(self) -> int:
        """Bytes of the model and its optimiser between steps."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *(t for t in states if isinstance(t, Tensor))]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def highest(recorded: profile) -> int:
    """The highest sum of the allocations less the releases, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event["name"] == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        most = max(most, total)
    return most


def measure(case: Case, runs: dict[str, Run], rounds: int) -> Times:
    """Seconds per step in each variant, the variants in alternation."""
    steps = {variant: case.sorted_steps if variant == "sort-reference" else case.steps for variant in VARIANTS}
    for run in runs.values():
        run.milliseconds(1)
    found: Times = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, run in runs.items():
            found[variant].append(run.milliseconds(steps[variant]) / 1e3)
    return found


def ratios(times: Times) -> dict[str, Ratio]:
    """Every variant over the dense step."""
    return {variant: ratio(times[variant], times["dense"]) for variant in VARIANTS[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=[case.model for case in CASES], help="networks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    record = Record("supermask_step", args.threads, args.rounds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(record.head(f"{name}, density {DENSITY:g}"))
    print("step in ms and as a ratio to dense, with quartiles; peak bytes per prunable weight more than dense")
    heads = "".join(f"{variant:>12}  {'ratio':20}{'bytes':>6}" for variant in ("edge-popup", "multi-prize", "sorted"))
    print(f"{'network':16}{'dense':>10}{heads}")
    for case in (case for case in CASES if case.model in args.only):
        runs = {variant: Run(case, variant, device) for variant in VARIANTS}
        peaks = {variant: run.peak() for variant, run in runs.items()}
        extra = {variant: round((peaks[variant] - peaks["dense"]) / runs[variant].weights, 3) for variant in VARIANTS}
        times = steadily(lambda case=case, runs=runs: measure(case, runs, args.rounds), ratios)  # type: ignore[misc]
        ms, found = milliseconds(times), ratios(times)
        cells = "".join(f"{ms[variant]:12.3f}  {found[variant]!s:20}{extra[variant]:6.2f}" for variant in VARIANTS[1:])
        print(f"{case.model:16}{ms['dense']:10.3f}{cells}", flush=True)
        record.figures |= {f"{variant}/{case.model}": one.as_dict()["median"] for variant, one in found.items()}
        record.figures[f"memory/{case.model}"] = extra["edge-popup"]
        record.rows.append(
            {"network": case.model, "batch": case.batch, "device": name, "ms": ms, "bytes": extra}
            | {variant: one.as_dict() for variant, one in found.items()}
        )
    print("scores and their momentum are 8 bytes of these; edge-popup may take 1 more")
    record.finish(args.json)


if __name__ == "__main__":
    main()
