"""VGG for small images (Simonyan & Zisserman 2015, with batch norm and one fully connected layer)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tombola.models.shapes import Pooling, Shape, flag, image, scaled

STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> convolutions at each map size, of 64, 128, 256, 512 and 512 channels."""


def vgg(*, input_shape: Shape, classes: int, depth: int, width: float = 1, affine: bool = True) -> nn.Sequential:
    """3x3 convolutions without bias, each with batch norm and ReLU; four max pools; global average; fc.

    Args:
        input_shape: (channels, height, width) of one example.
        classes: width of the output.
        depth: 16 or 19.
        width: factor of every hidden width.
        affine: whether batch norms have a scale and a bias.
    """
    name = f"vgg-{depth}"
    channels, height, width_in = image(name, input_shape)
    flag(name, "affine", affine)
    pooling = Pooling(height, width_in)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    i = 0
    for stage, repeats in enumerate(STAGES[depth]):
        if stage > 0 and (pool := pooling.next()) is not None:
            layers[f"pool{stage}"] = pool
        for _ in range(repeats):
            i += 1
            out = scaled(name, min(64 << stage, 512), width)
            layers[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(out, affine=affine)
            layers[f"relu{i}"] = nn.ReLU()
            channels = out
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
