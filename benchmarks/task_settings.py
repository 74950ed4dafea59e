"""Backbones with three tasks each, for `task_masks.py`: MNIST on a random LeNet-300-100, drawn tones on CREPE tiny."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.models.registry import build_network
from tombola.nn.init import initialise_
from tombola.rng.seeds import generator

MOST = 10_000
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """(inputs, class numbers) to train on, to choose by, and to test on."""

    train: Pair
    val: Pair
    test: Pair

    @property
    def classes(self) -> int:
        return int(self.train[1].max()) + 1


@dataclass(frozen=True, eq=False)
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
