"""A network of each family whose channels are pruned by their norms, small."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from tombola.models.registry import build_network


class PreActivation(nn.Module):
    """A bottleneck whose norms come before its convolutions (He et al. 2016b): the stream passes them all."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        out: Tensor = x + self.conv3(torch.relu(self.bn3(y)))
        return out


def pre_activation() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        PreActivation(8, 6),
        PreActivation(8, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def plain(*widths: int) -> nn.Sequential:
    """Convolutions of these widths with a norm each, then two linear layers with a norm between."""
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    hidden = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 6), nn.BatchNorm1d(6), nn.Sigmoid()]
    return nn.Sequential(*layers, *hidden, nn.Linear(6, 4))


def known(name: str, **args: object) -> Callable[[], nn.Module]:
    return lambda: build_network(name, input_shape=(3, 16, 16), classes=4, args=args)


def of_torchvision(name: str, **args: object) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(weights=None, num_classes=4, **args)  # type: ignore[no-any-return]


def grouped() -> nn.Module:
    """A convolution in two groups: the channels of a group are one unit."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2, bias=False), nn.BatchNorm2d(6),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def group_norms() -> nn.Module:
    """The channels that a norm takes together are one unit."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(8, 16), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.GroupNorm(4, 12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "plain": (lambda: plain(4, 5), (3, 4, 4), 4 + 5 + 6),
    "grouped": (grouped, (3, 4, 4), 2),
    "group norms": (group_norms, (3, 4, 4), 8 + 4),
    "pre-activation": (pre_activation, (3, 4, 4), 8 + 2 * 6 + 2 * 8),
    "vgg-16": (known("vgg-16", width=0.125), (3, 16, 16), 4224 // 8),
    "resnet-20": (known("resnet-20"), (3, 16, 16), (16 + 32 + 64) * (1 + 3)),
    "wrn-16-1": (known("wrn-16-1"), (3, 16, 16), (16 + 32 + 64) * (1 + 2)),
    "torchvision resnet18": (of_torchvision("resnet18"), (3, 32, 32), 2880),
    "torchvision resnet50": (of_torchvision("resnet50"), (3, 32, 32), 11456),
    "torchvision mobilenet_v2": (of_torchvision("mobilenet_v2", dropout=0.0), (3, 32, 32), 9128),
    "torchvision densenet121": (of_torchvision("densenet121"), (3, 32, 32), 10240),
}
"""name -> what makes it, the shape of one input, and how many units of channels it has, worked out by hand."""
