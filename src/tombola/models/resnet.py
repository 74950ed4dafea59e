"""Residual networks (He et al. 2016): ResNet-20/32/44/56 for CIFAR, ResNet-18/34/50/101 for either stem."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.models.activation import Activation, activation_layer, binary_form, following
from tombola.models.shapes import Shape, flag, image, scaled
from tombola.names import unknown

_EXPANSION = 4
"""Channels that a bottleneck block gives, over those of its 3x3 convolution."""


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is 1x1 where shapes change.

    Maps are (batch, channels, height, width). In the binary form every convolution sees -1 and +1, for the
    second activation comes after the sum.
    """

    def __init__(self, channels: int, out: int, stride: int, affine: bool, binary: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, affine=affine)
        self.relu1 = activation_layer(binary)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, affine=affine)
        self.downsample = _shortcut(channels, out, stride, affine)
        self.relu2 = activation_layer(binary)

    def forward(self, x: Tensor) -> Tensor:
        """Map a (batch, channels, height, width) tensor."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """A 1x1 convolution to a quarter of the channels, a 3x3 one, a 1x1 one back, each with its norm; plus shortcut(x).

    The 3x3 convolution has the stride, as in torchvision and in the papers on supermasks (He et al. 2016 give it to
    the first 1x1). In the binary form every convolution sees -1 and +1, for the last activation comes after the sum.
    """

    def __init__(self, channels: int, out: int, stride: int, affine: bool, binary: bool) -> None:
        super().__init__()
        narrow = out // _EXPANSION
        self.conv1 = nn.Conv2d(channels, narrow, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow, affine=affine)
        self.relu1 = activation_layer(binary)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow, affine=affine)
        self.relu2 = activation_layer(binary)
        self.conv3 = nn.Conv2d(narrow, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, affine=affine)
        self.downsample = _shortcut(channels, out, stride, affine)
        self.relu3 = activation_layer(binary)

    def forward(self, x: Tensor) -> Tensor:
        """Map a (batch, channels, height, width) tensor."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.downsample(x))
        return out


def _shortcut(channels: int, out: int, stride: int, affine: bool) -> nn.Module:
    """A 1x1 convolution and a norm where shapes change, else nothing."""
    if stride == 1 and channels == out:
        return nn.Identity()
    conv = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out, affine=affine)))


def cifar_resnet(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    width: float = 1,
    affine: bool = True,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Depth 6n+2: a 3x3 convolution, three stages of n blocks of 16, 32, 64 channels, average, fc.

    ResNet-20 is the "Resnet-18" of Frankle & Carbin 2019.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 20, 32, 44, 56 or any other 6n+2.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
        activation: relu or binary. In the binary form the fc sees means of -1 and +1.
    """
    name = f"resnet-{depth}"
    blocks = (depth - 2) // 6
    return _resnet(name, input_shape, classes, (16, 32, 64), (blocks,) * 3, width, affine, "cifar", activation)


def resnet(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    stem: Literal["cifar", "imagenet"] = "cifar",
    width: float = 1,
    affine: bool = True,
    activation: Activation = "relu",
) -> nn.Sequential:
    """ResNet-18 or -34: four stages of blocks of 64, 128, 256, 512 channels, average, fc.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 18 or 34.
        stem: cifar: a 3x3 convolution; imagenet: 7x7 of stride 2 and a 3x3 max pool of stride 2.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
        activation: relu; binary: also the stem's pool before its norm. The fc sees means of -1 and +1.
    """
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    widths = (64, 128, 256, 512)
    return _resnet(f"resnet-{depth}", input_shape, classes, widths, blocks, width, affine, stem, activation)


def bottleneck_resnet(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    stem: Literal["cifar", "imagenet"] = "imagenet",
    width: float = 1,
    affine: bool = True,
    activation: Activation = "relu",
) -> nn.Sequential:
    """ResNet-50 or -101: four stages of bottleneck blocks of 256, 512, 1024, 2048 channels, average, fc.

    torchvision's architecture: ResNet-50 has 25,557,032 parameters for 1,000 classes.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 50 or 101.
        stem: imagenet: 7x7 of stride 2 and a 3x3 max pool of stride 2; cifar: a 3x3 convolution.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
        activation: relu; binary: also the stem's pool before its norm. The fc sees means of -1 and +1.
    """
    blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    widths = (64, 128, 256, 512)
    name = f"resnet-{depth}"
    return _resnet(name, input_shape, classes, widths, blocks, width, affine, stem, activation, bottleneck=True)


def _resnet(
    name: str,
    input_shape: Shape,
    classes: int,
    stages: Sequence[int],
    blocks: Sequence[int],
    width: float,
    affine: bool,
    stem: str,
    activation: Activation,
    bottleneck: bool = False,
) -> nn.Sequential:
    if stem not in ("cifar", "imagenet"):
        raise TombolaError(f"{name}: {unknown('stem', stem, ('cifar', 'imagenet'))}")
    flag(name, "affine", affine)
    binary = binary_form(name, activation)
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
    pool = {"pool1": nn.MaxPool2d(3, stride=2, padding=1)} if large else {}
    layers.update(following(1, binary, norm=nn.BatchNorm2d(widths[0], affine=affine), pool=pool))
    channels = widths[0]
    block, expansion = (Bottleneck, _EXPANSION) if bottleneck else (BasicBlock, 1)
    for s, (out, repeats) in enumerate(zip(widths, blocks, strict=True), start=1):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for b in range(repeats):
            stride = 2 if s > 1 and b == 0 else 1
            stage[f"block{b + 1}"] = block(channels, out * expansion, stride, affine, binary)
            channels = out * expansion
        layers[f"stage{s}"] = nn.Sequential(stage)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
