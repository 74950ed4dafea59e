"""Fully connected networks, for images or flat data."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tombola.errors import TombolaError
from tombola.models.activation import Activation, binary_form, check_has_norms, dropout_layer, following
from tombola.models.shapes import Shape, flag

_MAX_LAYERS = 1000


def mlp(
    *,
    input_shape: Shape,
    classes: int,
    hidden: Sequence[int] = (128, 64),
    bias: bool = True,
    activation: Activation = "relu",
    affine: bool = False,
    norms: bool = False,
    dropout: float = 0.0,
    network: str = "mlp",
) -> nn.Sequential:
    """Flatten, then fc1, relu1, fc2, ... with these hidden widths; the last fc gives the classes.

    Args:
        input_shape: shape of one example, any number of dimensions.
        classes: width of the output.
        hidden: width of each hidden layer; empty gives a linear model.
        bias: whether the layers have biases; where norms follow, the last one alone can have them.
        activation: relu; binary: also a batch norm after each layer but the last.
        affine: whether the batch norms have a scale and a bias.
        norms: a batch norm after each layer but the last in the ReLU form too.
        dropout: probability of dropout before each layer but the first; 0 in the binary form.
        network: name in error lines.

    Raises:
        TombolaError: for widths that are not positive integers.
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not all(_positive(size) for size in hidden):
        raise TombolaError(
            f"{network}: hidden is {repr(hidden)[:80]}; a list of positive integers is needed, e.g. [128, 64]"
        )
    if len(hidden) > _MAX_LAYERS:
        raise TombolaError(f"{network}: hidden lists {len(hidden)} layers; at most {_MAX_LAYERS} are allowed")
    if not input_shape or min(input_shape) < 1:
        raise TombolaError(f"{network}: the data's shape is {tuple(input_shape)}; positive sizes are needed")
    flag(network, "bias", bias)
    binary = binary_form(network, activation)
    normed = flag(network, "norms", norms) or binary
    check_has_norms(network, normed, flag(network, "affine", affine))
    sizes = [math.prod(input_shape), *hidden, classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i in range(1, len(sizes)):
        last = i == len(sizes) - 1
        layers[f"fc{i}"] = nn.Linear(sizes[i - 1], sizes[i], bias=bias and (last or not normed))
        if not last:
            layers.update(following(i, binary, norm=nn.BatchNorm1d(sizes[i], affine=affine) if normed else None))
            layers.update(dropout_layer(network, i, dropout, binary))
    return nn.Sequential(layers)


def _positive(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0
