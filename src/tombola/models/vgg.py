"""VGG for small images (Simonyan & Zisserman 2015, with batch norm and one fully connected layer); VGG-Small."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tombola.models.activation import Activation, activation_layer, binary_form, following
from tombola.models.shapes import Pooling, Shape, flag, image, scaled

STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> convolutions at each map size, of 64, 128, 256, 512 and 512 channels."""


def vgg(
    *,
    input_shape: Shape,
    classes: int,
    depth: int,
    width: float = 1,
    affine: bool = True,
    activation: Activation = "relu",
) -> nn.Sequential:
    """3x3 convolutions without bias, each with batch norm and ReLU; four max pools; global average; fc.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 16 or 19.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
        activation: relu; binary: also pools before norms. The fc sees means of -1 and +1.
    """
    name = f"vgg-{depth}"
    channels, height, width_in = image(name, input_shape)
    flag(name, "affine", affine)
    binary = binary_form(name, activation)
    pooling = Pooling(height, width_in)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    i = 0
    for stage, repeats in enumerate(STAGES[depth]):
        for repeat in range(1, repeats + 1):
            i += 1
            out = scaled(name, min(64 << stage, 512), width)
            layers[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            pool = pooling.next() if repeat == repeats and stage < len(STAGES[depth]) - 1 else {}
            layers.update(following(i, binary, norm=nn.BatchNorm2d(out, affine=affine), pool=pool))
            channels = out
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


def vgg_small(
    *,
    input_shape: Shape,
    classes: int,
    width: float = 1,
    affine: bool = False,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Pairs of 3x3 convolutions of 128, 256, 512 channels without bias, then fc; 4,656,512 weights on 3x32x32.

    The network of Zhang et al. 2018 (LQ-Nets) in the order of Diffenderfer & Kailkhura 2021, in either form:
    convolution, after each second one a 2x2 max pool, batch norm, activation. Where their code keeps a ReLU
    before the fc, the binary form is binary there too.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
        activation: relu or binary.
    """
    name = "vgg-small"
    channels, height, width_in = image(name, input_shape)
    flag(name, "affine", affine)
    binary = binary_form(name, activation)
    pooling = Pooling(height, width_in)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, 7):
        out = scaled(name, 64 << (i + 1) // 2, width)
        layers[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        layers.update(pooling.next() if i % 2 == 0 else {})
        layers[f"bn{i}"] = nn.BatchNorm2d(out, affine=affine)
        layers[f"relu{i}"] = activation_layer(binary)
        channels = out
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * pooling.height * pooling.width, classes)
    return nn.Sequential(layers)
