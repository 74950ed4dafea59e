"""Lenet-300-100 (LeCun et al. 1998), the first network of the lottery ticket hypothesis."""

from __future__ import annotations

from torch import nn

from tombola.models.activation import Activation
from tombola.models.mlp import mlp
from tombola.models.shapes import Shape, scaled


def lenet_300_100(
    *,
    input_shape: Shape,
    classes: int,
    width: float = 1,
    bias: bool = True,
    activation: Activation = "relu",
    affine: bool = False,
    norms: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """fc1 300, fc2 100, fc3 classes, with ReLU between; 266,200 weights on 28x28 digits.

    Args:
        input_shape: shape of one example, any number of dimensions.
        classes: width of the output.
        width: factor of both hidden widths.
        bias: whether the layers have biases; where norms follow, the last one alone can have them.
        activation: relu; binary: also a batch norm after fc1 and fc2.
        affine: whether the batch norms have a scale and a bias.
        norms: a batch norm after fc1 and fc2 in the ReLU form too.
        dropout: probability of dropout before fc2 and fc3; 0 in the binary form.
    """
    name = "lenet-300-100"
    hidden = [scaled(name, size, width) for size in (300, 100)]
    return mlp(
        input_shape=input_shape,
        classes=classes,
        hidden=hidden,
        bias=bias,
        activation=activation,
        affine=affine,
        norms=norms,
        dropout=dropout,
        network=name,
    )
