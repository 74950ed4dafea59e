"""Residual networks (He et al. 2016): ResNet-20/32/44/56 for CIFAR, ResNet-18/34 for either stem."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.models.shapes import Shape, flag, image, scaled


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is 1x1 where shapes change.

    Maps are (batch, channels, height, width).
    """

    def __init__(self, channels: int, out: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, affine=affine)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, affine=affine)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(channels, out, 1, stride=stride, bias=False),
                    bn=nn.BatchNorm2d(out, affine=affine),
                )
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map a (batch, channels, height, width) tensor."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


def cifar_resnet(
    *, input_shape: Shape, classes: int, depth: int, width: float = 1, affine: bool = True
) -> nn.Sequential:
    """Depth 6n+2: a 3x3 convolution, three stages of n blocks of 16, 32, 64 channels, average, fc.

    ResNet-20 is the "Resnet-18" of Frankle & Carbin 2019.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 20, 32, 44, 56 or any other 6n+2.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
    """
    name = f"resnet-{depth}"
    blocks = (depth - 2) // 6
    return _resnet(name, input_shape, classes, (16, 32, 64), (blocks,) * 3, width, affine, "cifar")


def resnet(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    stem: Literal["cifar", "imagenet"] = "cifar",
    width: float = 1,
    affine: bool = True,
) -> nn.Sequential:
    """ResNet-18 or -34: four stages of blocks of 64, 128, 256, 512 channels, average, fc.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 18 or 34.
        stem: cifar: a 3x3 convolution; imagenet: 7x7 of stride 2 and a 3x3 max pool of stride 2.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
    """
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    return _resnet(f"resnet-{depth}", input_shape, classes, (64, 128, 256, 512), blocks, width, affine, stem)


def _resnet(
    name: str,
    input_shape: Shape,
    classes: int,
    stages: Sequence[int],
    blocks: Sequence[int],
    width: float,
    affine: bool,
    stem: str,
) -> nn.Sequential:
    if stem not in ("cifar", "imagenet"):
        raise TombolaError(f"{name}: stem is {stem!r}; allowed: cifar, imagenet")
    flag(name, "affine", affine)
    channels_in, _, _ = image(name, input_shape)
    widths = [scaled(name, base, width) for base in stages]
    large = stem == "imagenet"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(
        channels_in,
        widths[0],
        7 if large else 3,
        stride=2 if large else 1,
        padding=3 if large else 1,
        bias=False,
    )
    layers["bn1"] = nn.BatchNorm2d(widths[0], affine=affine)
    layers["relu1"] = nn.ReLU()
    if large:
        layers["pool1"] = nn.MaxPool2d(3, stride=2, padding=1)
    channels = widths[0]
    for s, (out, repeats) in enumerate(zip(widths, blocks, strict=True), start=1):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for b in range(repeats):
            stage[f"block{b + 1}"] = BasicBlock(channels, out, 2 if s > 1 and b == 0 else 1, affine)
            channels = out
        layers[f"stage{s}"] = nn.Sequential(stage)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
